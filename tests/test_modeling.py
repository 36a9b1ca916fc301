# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model compared with a simple reference implementation, for many lengths, batches and settings."""

import copy
import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.fx.experimental._config as symbolic_shapes_config
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from torch.export import Dim
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoModel, AutoModelForAudioFrameClassification, Trainer, TrainingArguments
from transformers.integrations.flex_attention import WrappedFlexAttention

from ced_model import (
    AudioTagger,
    CedConfig,
    CedFeatureExtractor,
    CedForAudioClassification,
    CedForAudioFrameClassification,
    CedModel,
    bundled_folder,
)

POOLINGS = ("mean", "logit", "dm", "token")
PROBLEM_TYPES = ("multi_label_classification", "single_label_classification", "regression")
TOLERANCE = 1e-5


def make_config(**fields: Any) -> CedConfig:
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "target_length": 64, "num_labels": 5}
    return CedConfig(**{**small, **fields})


def make_model(model_class: Any = CedForAudioClassification, attn_implementation: str = "sdpa", **fields: Any) -> Any:
    """A small model whose outputs depend on everything: random weights, positions and running statistics."""
    torch.manual_seed(0)
    model = model_class._from_config(make_config(**fields), attn_implementation=attn_implementation)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return model.eval()


def make_clips(lengths: list[int] | tuple[int, ...], n_mels: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(n_mels, length, generator=generator) for length in lengths]


def pad(clips: list[torch.Tensor], filling: float = 0.0, extra: int = 0) -> dict[str, torch.Tensor]:
    frames = max(clip.shape[1] for clip in clips) + extra
    values = torch.full((len(clips), clips[0].shape[0], frames), filling)
    mask = torch.zeros(len(clips), frames, dtype=torch.long)
    for index, clip in enumerate(clips):
        values[index, :, : clip.shape[1]] = clip
        mask[index, : clip.shape[1]] = 1
    return {"input_values": values, "attention_mask": mask}


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    assert actual.shape == expected.shape
    return (actual.double() - expected.double()).abs().max().item()


# ---------------------------------------------------------------------------------------------- the definition


class Expected(NamedTuple):
    tokens: torch.Tensor
    pooled: torch.Tensor
    hidden_states: list[torch.Tensor]  # per layer, chunks joined
    attentions: list[list[torch.Tensor]]  # per layer, per chunk: (heads, tokens, tokens)
    logits: torch.Tensor


def plain_pieces(encoder: CedModel, clip: torch.Tensor) -> list[torch.Tensor]:
    config, size = encoder.config, encoder.config.patch_size
    values, frames = encoder.init_bn(clip[None, :, None])[:, :, 0], clip.shape[1]
    if frames <= config.target_length:
        return [values]
    step = config.target_length if config.pad_last else config.target_length // size * size
    pieces = [values[:, :, start : start + step] for start in range(0, frames, step)]
    if config.pad_last:
        pieces[-1] = nn.functional.pad(pieces[-1], (0, step - pieces[-1].shape[-1]))
    return [piece for piece in pieces if piece.shape[-1] >= size]


def plain_attention(attention: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    heads = attention.num_attention_heads
    qkv = attention.qkv(x).reshape(len(x), 3, heads, -1)
    weights, outputs = [], []
    for head in range(heads):
        query, key, value = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
        weights.append((query @ key.T / math.sqrt(query.shape[-1])).softmax(dim=-1))
        outputs.append(weights[-1] @ value)
    return attention.proj(torch.cat(outputs, dim=-1)), torch.stack(weights)


def plain_encode(encoder: CedModel, piece: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    patches = encoder.patch_embed.proj(piece[:, None])[0]
    bands, positions = patches.shape[1:]
    tokens = [
        patches[:, f, t] + encoder.time_pos_embed[0, :, 0, t] + encoder.freq_pos_embed[0, :, f, 0]
        for f in range(bands)
        for t in range(positions)
    ]
    if encoder.cls_token is not None:
        tokens.insert(0, encoder.cls_token[0, 0] + encoder.token_pos_embed[0])
    x = torch.stack(tokens)
    states, attentions = [x], []
    for block in encoder.blocks:
        attended, weights = plain_attention(block.attn, block.norm1(x))
        x = x + attended
        x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        states.append(x)
        attentions.append(weights)
    return encoder.norm(x), states, attentions


def plain_head(model: CedForAudioClassification, tokens: torch.Tensor) -> torch.Tensor:
    """Values to average over chunks: probabilities, or raw outputs for `logit` pooling and regression."""
    config, head = model.config, model.outputlayer
    activation = {
        "multi_label_classification": torch.sigmoid,
        "single_label_classification": lambda logits: logits.softmax(dim=-1),
        "regression": lambda logits: logits,
    }[config.problem_type]
    if config.pooling == "dm":
        bands = config.n_mels // config.patch_size
        columns = tokens.reshape(bands, -1, tokens.shape[-1]).mean(dim=0)
        return torch.stack([activation(head(column)) for column in columns]).mean(dim=0)
    raw = head(tokens[0] if config.pooling == "token" else tokens.mean(dim=0))
    return raw if config.pooling == "logit" else activation(raw)


def plain_logits(model: CedForAudioClassification, chunks: list[torch.Tensor]) -> torch.Tensor:
    config = model.config
    outputs = torch.stack([plain_head(model, tokens) for tokens in chunks])
    clip = outputs.mean(dim=0) if config.eval_avg == "mean" else outputs.amax(dim=0)
    if config.pooling == "logit" or config.problem_type == "regression":
        return clip
    clip = clip.clamp(1e-7, 1 - 1e-7)
    return clip.logit() if config.problem_type == "multi_label_classification" else clip.log()


def plain_forward(model: CedForAudioClassification, clip: torch.Tensor) -> Expected:
    chunks = [plain_encode(model.encoder, piece) for piece in plain_pieces(model.encoder, clip)]
    tokens = [chunk[0] for chunk in chunks]
    vectors = torch.stack([part[0] if model.config.pooling == "token" else part.mean(dim=0) for part in tokens])
    layers = range(model.config.depth)
    return Expected(
        torch.cat(tokens),
        vectors.mean(dim=0) if model.config.eval_avg == "mean" else vectors.amax(dim=0),
        [torch.cat([chunk[1][layer] for chunk in chunks]) for layer in range(model.config.depth + 1)],
        [[chunk[2][layer] for chunk in chunks] for layer in layers],
        plain_logits(model, tokens),
    )


def as_class_scores(model: CedForAudioClassification, logits: torch.Tensor) -> torch.Tensor:
    """Softmax is invariant to an offset: short single-label clips return raw logits, long ones log p."""
    return logits.log_softmax(dim=-1) if model.config.problem_type == "single_label_classification" else logits


def joined_attention(chunks: list[torch.Tensor], per_chunk: int, special: int, bands: int) -> torch.Tensor:
    """Attentions of the chunks in the layout of a batch whose chunks have `per_chunk` tokens."""
    width = (per_chunk - special) // bands
    rows = []
    for weights in chunks:
        positions = (weights.shape[-1] - special) // bands
        keys = list(range(special)) + [special + f * width + t for f in range(bands) for t in range(positions)]
        row = torch.zeros(*weights.shape[:2], per_chunk)
        row[:, :, keys] = weights
        rows.append(row)
    return torch.cat(rows, dim=1)


def joined_rows(model: Any, rows: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Rows of chunks `(batch * chunks, tokens, …)` in the layout of `last_hidden_state`."""
    frames = batch["input_values"].shape[-1]
    return model.encoder._join(rows.unflatten(0, (len(batch["input_values"]), -1)), frames)


def check_batch(model: Any, clips: list[torch.Tensor], filling: float = 0.0, extra: int = 0) -> None:
    """Every output of a padded batch equals the definition, clip by clip."""
    batch = pad(clips, filling, extra)
    is_eager = model.config._attn_implementation == "eager"
    with torch.no_grad():
        outputs = model(**batch, output_hidden_states=True, output_attentions=is_eager)
        encoded = model.encoder(**batch)
        token_mask = model.encoder.get_token_mask(batch["attention_mask"])
        assert token_mask.shape == encoded.last_hidden_state.shape[:2]
        for index, clip in enumerate(clips):
            expected, mask = plain_forward(model, clip), token_mask[index]
            assert difference(encoded.last_hidden_state[index, mask], expected.tokens) < TOLERANCE
            assert difference(encoded.pooler_output[index], expected.pooled) < TOLERANCE
            actual_logits, expected_logits = (
                as_class_scores(model, x) for x in (outputs.logits[index], expected.logits)
            )
            assert difference(actual_logits, expected_logits) < TOLERANCE
            assert len(outputs.hidden_states) == model.config.depth + 1
            for actual, state in zip(outputs.hidden_states, expected.hidden_states, strict=True):
                assert difference(joined_rows(model, actual, batch)[index, mask], state) < TOLERANCE
            if is_eager:
                special, bands = int(model.config.pooling == "token"), model.config.num_patches[0]
                for actual, chunks in zip(outputs.attentions, expected.attentions, strict=True):
                    joined = joined_attention(chunks, actual.shape[-1], special, bands)
                    rows = joined_rows(model, actual.transpose(1, 2), batch)
                    assert difference(rows[index, mask].transpose(0, 1), joined) < TOLERANCE


# ---------------------------------------------------------------------------------------------- batches and chunks


@pytest.fixture
def uncompiled_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flex attention without compiling its kernel, which takes a minute."""
    monkeypatch.setattr(WrappedFlexAttention, "_is_flex_compiled", True)
    monkeypatch.setattr(WrappedFlexAttention, "training", False, raising=False)
    monkeypatch.setattr(WrappedFlexAttention, "_compiled_flex_attention", staticmethod(flex_attention))


# Settings for the chunks of long clips.
CHUNKS = tuple(product(("mean", "max"), (True, False)))


@pytest.mark.parametrize("pooling, problem_type", list(product(range(4), range(3))))
def test_mixed_lengths_equal_the_definition(pooling: int, problem_type: int) -> None:
    eval_avg, pad_last = CHUNKS[(pooling + problem_type) % 4]  # every pair of settings occurs
    settings = {"pooling": POOLINGS[pooling], "problem_type": PROBLEM_TYPES[problem_type]}
    for target_length in (64, 73):  # a multiple of the patch size, and another length
        model = make_model(
            attn_implementation="eager",
            target_length=target_length,
            eval_avg=eval_avg,
            pad_last=pad_last,
            **settings,
        )
        check_batch(model, make_clips((16, 33, target_length, target_length + 1)))
        check_batch(model, make_clips((16, target_length, 2 * target_length, 2 * target_length + 20, 170)))
        check_batch(model, make_clips((40, 16)))


@pytest.mark.parametrize("pooling", POOLINGS)
@settings(max_examples=15)
@given(data=st.data())
def test_any_padded_batch_equals_its_clips_one_by_one(pooling: str, data: st.DataObject) -> None:
    patch_size, n_mels = data.draw(st.sampled_from([(16, 64), (16, 32), (16, 16), (8, 24)]))
    model = make_model(
        attn_implementation=data.draw(st.sampled_from(["sdpa", "eager"])),
        pooling=pooling,
        eval_avg=data.draw(st.sampled_from(["mean", "max"])),
        pad_last=data.draw(st.booleans()),
        problem_type=data.draw(st.sampled_from(PROBLEM_TYPES)),
        target_length=data.draw(st.integers(patch_size, 100)),
        patch_size=patch_size,
        patch_stride=patch_size,
        n_mels=n_mels,
    )
    lengths = data.draw(st.lists(st.integers(patch_size, 230), min_size=1, max_size=4))
    filling = data.draw(st.sampled_from([0.0, 100.0, -1e30, 3e38, math.inf, math.nan]))
    check_batch(model, make_clips(lengths, n_mels), filling, extra=data.draw(st.integers(0, 70)))


@pytest.mark.parametrize("pooling", ("mean", "token"))
def test_flex_attention_equals_the_definition(pooling: str, uncompiled_flex: None) -> None:
    model = make_model(attn_implementation="flex_attention", pooling=pooling, pad_last=pooling == "mean", depth=1)
    check_batch(model, make_clips((16, 40, 64)))
    check_batch(model, make_clips((16, 64, 150)))


@pytest.mark.parametrize("pad_last", (True, False))
@pytest.mark.parametrize("frames", (1008, 1012, 1013, 1024, 2024, 2025))
def test_lengths_around_the_published_target_length(frames: int, pad_last: bool) -> None:
    model = make_model(target_length=1012, depth=1, pad_last=pad_last)
    check_batch(model, make_clips((frames, 500)))
    (clip,) = make_clips((frames,))
    with torch.no_grad():
        assert difference(model(clip[None]).logits[0], plain_forward(model, clip).logits) < TOLERANCE


@pytest.mark.parametrize("pad_last", (True, False))
def test_an_exact_multiple_of_the_target_length_keeps_its_last_chunk(pad_last: bool) -> None:
    model = make_model(target_length=64, pad_last=pad_last)
    (clip,) = make_clips((192,))
    with torch.no_grad():
        whole, parts = model(clip[None]).logits, model(clip.unflatten(1, (3, 64)).transpose(0, 1)).logits
    assert difference(whole[0], parts.sigmoid().mean(dim=0).logit()) < TOLERANCE


def test_a_loud_clip_in_the_batch_changes_nothing() -> None:
    quiet, loud = make_clips((40, 150))
    model = make_model()
    with torch.no_grad():
        beside_quiet = model(**pad([quiet, loud])).logits[0]
        beside_loud = model(**pad([quiet, loud * 1e4])).logits[0]
    assert difference(beside_loud, beside_quiet) < TOLERANCE


def test_without_a_mask_all_frames_count() -> None:
    model, batch = make_model(), pad(make_clips((40, 64)))
    with torch.no_grad():
        unmasked = model(batch["input_values"]).logits
        all_valid = model(batch["input_values"], attention_mask=torch.ones(2, 64)).logits
        masked = model(**batch).logits
    assert difference(unmasked, all_valid) < TOLERANCE
    assert difference(unmasked[0], masked[0]) > 1e-3


def test_long_clips_with_saturated_probabilities_have_finite_logits() -> None:
    for pooling, problem_type in product(("mean", "dm", "token"), PROBLEM_TYPES[:2]):
        model = make_model(pooling=pooling, problem_type=problem_type)
        with torch.no_grad():
            model.outputlayer[1].bias.copy_(torch.tensor([1e4, -1e4, 0, 50, -50]))
            logits = model(torch.randn(1, 64, 150)).logits
        assert logits.isfinite().all()
        assert logits.abs().max() <= math.log((1 - 1e-7) / 1e-7) + 1e-4


# ---------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "shape, mask_shape, message",
    [
        ((2, 40, 64), None, "64, frames"),
        ((64, 40), None, "64, frames"),
        ((2, 1, 64, 40), None, "64, frames"),
        ((2, 64, 15), None, r"at least 16 frames, got \(2, 64, 15\)"),
        ((2, 64, 40), (2, 39), r"attention_mask.*\(2, 40\)"),
        ((2, 64, 40), (1, 40), r"attention_mask.*\(2, 40\)"),
        ((2, 64, 40), (40,), r"attention_mask.*\(2, 40\)"),
    ],
)
def test_inputs_of_another_shape_are_refused(shape: tuple, mask_shape: tuple | None, message: str) -> None:
    mask = None if mask_shape is None else torch.ones(mask_shape)
    for model_class in (CedModel, CedForAudioClassification):
        with pytest.raises(ValueError, match=message):
            make_model(model_class)(torch.zeros(shape), attention_mask=mask)


@pytest.mark.parametrize("pad_last", (True, False))
@pytest.mark.parametrize("frames", (40, 64, 65, 150))
@pytest.mark.parametrize("valid", (0, 15))
def test_a_clip_with_only_padding_is_refused_with_its_index(frames: int, valid: int, pad_last: bool) -> None:
    mask = torch.ones(3, frames)
    mask[1, valid:] = 0
    with pytest.raises(ValueError, match="clip 1 without a patch"):
        make_model(pad_last=pad_last)(torch.zeros(3, 64, frames), attention_mask=mask)


@pytest.mark.parametrize(
    "fields, labels",
    [
        ({}, torch.rand(2, 4)),
        ({}, torch.rand(3, 5)),
        ({}, torch.rand(2)),
        ({}, torch.rand(2, 5, 1)),
        ({}, torch.tensor([1, 2, 3])),
        ({"problem_type": "single_label_classification"}, torch.rand(2)),
        ({"problem_type": "single_label_classification"}, torch.tensor([1])),
        ({"problem_type": "single_label_classification"}, torch.tensor([[1], [2]])),
        ({"problem_type": "regression"}, torch.rand(1, 5)),  # it would broadcast
        ({"problem_type": "regression"}, torch.rand(2)),
        ({"problem_type": "regression", "num_labels": 1}, torch.rand(1)),
    ],
)
def test_labels_of_wrong_shapes_are_refused(fields: dict[str, Any], labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        make_model(**fields)(torch.randn(2, 64, 40), labels=labels)


@pytest.mark.parametrize("field", ["input_values", "attention_mask"])
@pytest.mark.parametrize("kind", [CedModel, CedForAudioClassification, CedForAudioFrameClassification])
def test_inputs_that_are_not_a_tensor_are_refused(kind: Any, field: str) -> None:
    model = kind(make_config())
    inputs: dict[str, Any] = {"input_values": torch.randn(2, 64, 40), "attention_mask": torch.ones(2, 40)}
    inputs[field] = inputs[field].numpy()
    with pytest.raises(ValueError, match=f"^`{field}` must be a tensor, got ndarray"):
        model(**inputs)


@pytest.mark.parametrize("labels", [[[0.0] * 5] * 2, torch.zeros(2, 5).numpy(), "dog"])
@pytest.mark.parametrize("kind", [CedForAudioClassification, CedForAudioFrameClassification])
def test_labels_that_are_not_a_tensor_are_refused(kind: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=rf"^`labels` must be a tensor, got {type(labels).__name__}\.$"):
        kind(make_config())(torch.randn(2, 64, 40), labels=labels)


# ---------------------------------------------------------------------------------------------- labels and losses


@pytest.mark.parametrize("frames", (40, 150))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_losses_are_the_plain_formulas(pooling: str, frames: int) -> None:
    soft, values = torch.rand(2, 5), torch.randn(2, 64, frames)
    hot = (soft > 0.5).long()
    indices = torch.tensor([4, 0])
    cases = [
        ("multi_label_classification", soft, lambda p: -(soft * p.log() + (1 - soft) * (1 - p).log()).mean()),
        ("multi_label_classification", hot, lambda p: -(hot * p.log() + (1 - hot) * (1 - p).log()).mean()),
        ("multi_label_classification", hot.bool(), lambda p: -(hot * p.log() + (1 - hot) * (1 - p).log()).mean()),
        ("single_label_classification", indices, lambda p: -p[[0, 1], indices].log().mean()),
        ("single_label_classification", indices.int(), lambda p: -p[[0, 1], indices].log().mean()),
        ("regression", soft, lambda outputs: (outputs - soft).square().mean()),
    ]
    for problem_type, labels, formula in cases:
        model = make_model(pooling=pooling, problem_type=problem_type)
        outputs = model(values, labels=labels)
        scores = outputs.logits
        if problem_type != "regression":
            scores = scores.sigmoid() if problem_type.startswith("multi") else scores.softmax(dim=-1)
        assert difference(outputs.loss, formula(scores)) < TOLERANCE


def test_class_indices_make_a_default_model_single_label() -> None:
    model, values, labels = make_model(), torch.randn(2, 64, 40), torch.tensor([1, 3])
    outputs = model(values, labels=labels)
    assert model.config.problem_type == "single_label_classification"
    assert difference(outputs.loss, nn.functional.cross_entropy(outputs.logits, labels)) < TOLERANCE


def test_one_class_is_binary_also_with_one_dimensional_integers() -> None:
    model, labels = make_model(num_labels=1), torch.tensor([0, 1])
    outputs = model(torch.randn(2, 64, 40), labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(outputs.logits[:, 0], labels.float())
    assert difference(outputs.loss, expected) < TOLERANCE
    assert model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("shape", ((2,), (2, 1)))
def test_regression_of_one_number(shape: tuple[int, ...]) -> None:
    model, labels = make_model(num_labels=1, problem_type="regression"), torch.rand(shape)
    outputs = model(torch.randn(2, 64, 40), labels=labels)
    assert difference(outputs.loss, (outputs.logits.flatten() - labels.flatten()).square().mean()) < TOLERANCE


def test_another_number_of_classes_by_from_pretrained(golden: Path) -> None:
    stored = load_file(golden / "micro_hub" / "model.safetensors")
    model = CedForAudioClassification.from_pretrained(golden / "micro_hub", num_labels=10, ignore_mismatched_sizes=True)
    assert model(torch.randn(2, 64, 40), labels=torch.rand(2, 10)).logits.shape == (2, 10)
    assert torch.equal(model.encoder.time_pos_embed, stored["encoder.time_pos_embed"])
    head = model.outputlayer[1]
    assert head.weight.abs().max() > 0 and head.weight.std() < 0.03 and not head.bias.any()


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("filling, momentum", ((0.0, 0.01), (1e30, 0.01), (math.nan, 0.01), (0.0, 0.0), (0.0, None)))
def test_batch_norm_takes_its_statistics_from_valid_frames(filling: float, momentum: float | None) -> None:
    clips = make_clips((16, 23, 40, 150))
    model = make_model().train()
    model.encoder.init_bn.momentum = momentum  # None means a cumulative average
    norm = copy.deepcopy(model.encoder.init_bn)
    for step in range(1, 3):
        model(**pad(clips, filling))
        normalised = norm(torch.cat(clips, dim=1)[None, :, None])
        actual = model.encoder.init_bn
        assert actual.num_batches_tracked == norm.num_batches_tracked == step
        assert difference(actual.running_mean, norm.running_mean) < TOLERANCE
        assert difference(actual.running_var, norm.running_var) < TOLERANCE
    captured = []
    model.encoder.patch_embed.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    model(**pad(clips[:3], filling))
    normalised = norm(torch.cat(clips[:3], dim=1)[None, :, None])[0, :, 0]
    rows = torch.cat([row[:, : clip.shape[1]] for row, clip in zip(captured[0], clips[:3], strict=True)], dim=1)
    assert difference(rows, normalised) < TOLERANCE
    assert not captured[0][0, :, 16:].any()


@pytest.mark.parametrize("masked", (True, False))
def test_a_frozen_encoder_does_not_update_its_statistics(masked: bool) -> None:
    model = make_model()
    model.freeze_base_model()
    before = copy.deepcopy(model.encoder.state_dict())
    batch = pad(make_clips((30, 40)))
    if not masked:
        del batch["attention_mask"]
    expected = model(**batch).logits
    model.train()
    outputs = model(**batch, labels=torch.rand(2, 5))
    assert difference(outputs.logits, expected) < TOLERANCE
    outputs.loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        f"outputlayer.{index}.{name}" for index in (0, 1) for name in ("weight", "bias")
    }


@pytest.mark.parametrize("train", (True, False))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_weight_of_a_long_padded_batch_gets_a_finite_gradient(pooling: str, train: bool) -> None:
    for (eval_avg, pad_last), filling in zip(CHUNKS, (0.0, math.nan, math.inf, math.nan), strict=True):
        model = make_model(pooling=pooling, eval_avg=eval_avg, pad_last=pad_last).train(train)
        model(**pad(make_clips((30, 64, 150)), filling), labels=torch.rand(3, 5)).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


def test_gradients_of_a_padded_batch_are_those_of_its_clips() -> None:
    model, clips, labels = make_model(pad_last=False), make_clips((30, 64, 150)), torch.rand(3, 5)
    model(**pad(clips), labels=labels).loss.backward()
    batched = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for clip, label in zip(clips, labels, strict=True):
        (model(clip[None], labels=label[None]).loss / 3).backward()
    for name, parameter in model.named_parameters():
        assert difference(batched[name], parameter.grad) < TOLERANCE, name


def test_the_gradient_of_dm_does_not_vanish_for_saturated_probabilities() -> None:
    model = make_model(pooling="dm")
    with torch.no_grad():
        model.outputlayer[1].bias.fill_(60.0)  # the sigmoid is exactly 1
    model(torch.randn(2, 64, 40), labels=torch.zeros(2, 5)).loss.backward()
    assert (model.outputlayer[1].bias.grad - 0.2).abs().max() < 1e-4


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    batch, labels = pad(make_clips((30, 64, 150))), torch.rand(3, 5)
    gradients = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(**batch, labels=labels).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(difference(a, b) < 1e-6 for a, b in zip(*gradients, strict=True))


def test_dropout_and_stochastic_depth_apply_only_in_training() -> None:
    rates = {"drop_rate": 0.3, "attn_drop_rate": 0.3, "drop_path_rate": 0.5}
    values = torch.randn(2, 64, 40)
    for name, rate in rates.items():
        model = make_model(**{name: rate})
        assert torch.equal(model(values).logits, make_model()(values).logits)
        model.freeze_base_model()
        model.train()
        assert not torch.equal(model(values).logits, model(values).logits)
    model = make_model(depth=4, **rates)
    assert [block.drop_path.drop_prob for block in model.encoder.blocks] == pytest.approx([0, 1 / 6, 1 / 3, 0.5])
    block = model.encoder.blocks[0]
    dropouts = (model.encoder.pos_drop, block.attn.proj_drop, block.mlp.drop)
    assert [dropout.p for dropout in dropouts] == [0.3] * 3
    assert block.attn.attention_dropout == 0.3


def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation() -> None:
    torch.manual_seed(0)
    drop_path = make_model(drop_path_rate=0.25).encoder.blocks[-1].drop_path
    ones = torch.ones(20000, 3, 2)
    assert torch.equal(drop_path.eval()(ones), ones)
    dropped = drop_path.train()(ones)
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)


class Clips(torch.utils.data.Dataset):
    def __init__(self) -> None:
        self.clips = make_clips((16, 30, 64, 70, 150, 40))

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"clip": self.clips[index], "labels": torch.linspace(0, 1, 5)}


def test_trainer_trains_on_clips_of_different_lengths_with_soft_labels(tmp_path: Path) -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=Clips(),
        eval_dataset=Clips(),
        data_collator=lambda rows: {
            **pad([row["clip"] for row in rows], math.nan),
            "labels": torch.stack([row["labels"] for row in rows]),
        },
    )
    result = trainer.train()
    assert math.isfinite(result.training_loss)
    # A mean over clips, not a sum over the accumulated batches.
    assert result.training_loss < 3
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)


# ---------------------------------------------------------------------------------------------- compile and export


@pytest.fixture
def fresh_compiler() -> Any:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


# There are no clips with a complete last chunk, which would be another graph without `pad_last`.
SHORT, LONG = (40, 50, 33), (170, 235, 360)


@pytest.mark.parametrize(
    "lengths, fields, train",
    [
        (SHORT, {"pooling": "token"}, False),
        (LONG, {"pad_last": False}, False),
        (LONG, {"pooling": "dm", "eval_avg": "max"}, False),
        (LONG, {"pooling": "dm", "pad_last": False}, True),
    ],
)
def test_compiled_once_for_all_lengths(
    lengths: tuple[int, ...], fields: dict[str, Any], train: bool, fresh_compiler: None
) -> None:
    model = make_model(depth=1, **fields).train(train)
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager" if train else "eager")
    for length in lengths:
        batch = pad(make_clips((length, length // 2, 20)))
        if train:
            batch["labels"] = torch.rand(3, 5)
        actual, expected = compiled(**batch), reference(**batch)
        assert difference(actual.logits, expected.logits) < TOLERANCE
        if train:
            actual.loss.backward()
            expected.loss.backward()
            assert difference(model.encoder.init_bn.running_var, reference.encoder.init_bn.running_var) < TOLERANCE
            assert difference(model.encoder.init_bn.weight.grad, reference.encoder.init_bn.weight.grad) < TOLERANCE
    assert counters["stats"]["unique_graphs"] == 1


def test_a_compiled_model_takes_every_length_in_a_few_graphs(fresh_compiler: None) -> None:
    model = make_model(depth=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for length in (40, 16, 17, 64, 65, 128, 450):
        batch = pad(make_clips((length, max(16, length // 2))))
        assert difference(compiled(**batch).logits, model(**batch).logits) < TOLERANCE
    # Also a single patch, and exactly as many patches as positions.
    assert counters["stats"]["unique_graphs"] <= 5


@pytest.mark.parametrize(
    "model_class, pooling, masked",
    [
        (CedForAudioClassification, "mean", False),
        (CedForAudioClassification, "dm", True),
        (CedModel, "token", True),
    ],
)
def test_an_exported_model_takes_every_batch_and_length(model_class: Any, pooling: str, masked: bool) -> None:
    model = make_model(model_class, pooling=pooling, target_length=512, depth=1)
    batch, time = Dim("batch", min=1, max=64), Dim("time", min=16, max=512)
    inputs = pad(make_clips((90, 60, 30)))
    shapes = {"input_values": {0: batch, 2: time}, "attention_mask": {0: batch, 1: time}}
    if not masked:
        del inputs["attention_mask"], shapes["attention_mask"]
    # Otherwise PyTorch assumes more than one patch, since a single one would broadcast.
    with symbolic_shapes_config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (), kwargs=inputs, dynamic_shapes=shapes).module()
    for lengths in ((16,), (17, 16), (32, 20, 16), (500, 16), (512, 511)):
        inputs = pad(make_clips(lengths))
        if not masked:
            del inputs["attention_mask"]
        with torch.no_grad():
            actual, expected = program(**inputs), model(**inputs)
        assert set(actual) == set(expected)
        assert all(difference(actual[key], expected[key]) < TOLERANCE for key in expected)


# ---------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_close_to_single_precision(pooling: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_model(pooling=pooling)
    model.save_pretrained(tmp_path)
    half = CedForAudioClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    assert half.encoder.init_bn.weight.dtype == half.encoder.init_bn.running_var.dtype == torch.float32
    assert {p.dtype for name, p in half.named_parameters() if "init_bn" not in name} == {dtype}
    labels = torch.rand(3, 5)
    for lengths in ((16, 40, 64), (30, 64, 150)):
        batch = pad(make_clips(lengths), math.nan)
        expected = model(**batch).logits
        with torch.autocast("cpu", dtype=dtype):
            mixed = model(**batch, labels=labels)
        for outputs in (mixed, half(**batch, labels=labels)):
            assert (outputs.logits.float() - expected).abs().max() < (0.1 if dtype == torch.bfloat16 else 0.02)
            outputs.loss.backward()
        for parameter in (*model.parameters(), *half.parameters()):
            assert parameter.grad is None or parameter.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------- outputs and files


@pytest.mark.parametrize("frames", (40, 150))
def test_outputs_are_tuples_or_have_hidden_states_and_attentions_on_request(frames: int) -> None:
    values = torch.randn(2, 64, frames)
    model = make_model(attn_implementation="eager")
    plain = model(values)
    assert plain.hidden_states is None and plain.attentions is None and plain.loss is None
    full = model(values, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert isinstance(full, tuple) and [len(part) for part in full] == [2, 3, 2]
    assert torch.equal(full[0], plain.logits)
    encoded = model.encoder(values, return_dict=False)
    assert isinstance(encoded, tuple) and len(encoded) == 6
    for name in ("return_dict", "output_hidden_states"):
        setattr(model.config, name, name != "return_dict")
    assert [len(part) for part in model(values)] == [2, 3]
    assert len(model.encoder(values)) == 7
    rows = model(values, return_dict=True).hidden_states[0]
    assert rows.shape == (encoded[2].shape[0] * encoded[2].shape[1], 4 * encoded[3].shape[2], 16)


def test_initialisation_is_the_papers() -> None:
    torch.manual_seed(0)
    model = CedForAudioClassification(make_config(embed_dim=192, num_heads=3, num_labels=527, pooling="token"))
    encoder = model.encoder
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert module.weight.mean().abs() < 1e-3 and not module.bias.any()
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            assert (module.weight == 1).all() and not module.bias.any()
    assert encoder.freq_pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert encoder.time_pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert encoder.token_pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert encoder.cls_token.std().item() == pytest.approx(1e-6, rel=0.2)
    bound = 1 / 16  # PyTorch's default for 256 inputs
    assert encoder.patch_embed.proj.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert not encoder.init_bn.running_mean.any() and (encoder.init_bn.running_var == 1).all()
    assert {(norm.norm1.eps, norm.norm2.eps) for norm in encoder.blocks} == {(1e-6, 1e-6)}
    assert (encoder.norm.eps, model.outputlayer[0].eps, encoder.init_bn.eps) == (1e-6, 1e-5, 1e-5)
    assert encoder.init_bn.momentum == 0.01


@pytest.mark.parametrize("name, millions", [("tiny", 5.5), ("mini", 9.6), ("small", 22), ("base", 86)])
def test_the_published_sizes_have_the_published_parameters(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = CedForAudioClassification(CedConfig(name=f"ced-{name}"))
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.1 if millions < 10 else 0.6)


@pytest.mark.parametrize("pooling", ("mean", "token"))
def test_tensors_have_the_names_of_the_hub(pooling: str, golden: Path) -> None:
    names = set(load_file(golden / "micro_hub" / "model.safetensors"))
    if pooling == "token":
        names |= {"encoder.cls_token", "encoder.token_pos_embed"}
    model = make_model(pooling=pooling, embed_dim=48, depth=3, num_heads=3)
    assert set(model.state_dict()) == names


def test_the_encoder_of_a_classification_checkpoint_loads_without_the_head(golden: Path, tmp_path: Path) -> None:
    stored = load_file(golden / "micro_hub" / "model.safetensors")
    encoder = AutoModel.from_pretrained(golden / "micro_hub")
    assert isinstance(encoder, CedModel)
    state = encoder.state_dict()
    assert {f"encoder.{name}" for name in state} == {name for name in stored if name.startswith("encoder.")}
    assert all(torch.equal(value, stored[f"encoder.{name}"]) for name, value in state.items())
    encoder.save_pretrained(tmp_path)
    classifier, info = CedForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {f"outputlayer.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert all(torch.equal(value, state[name]) for name, value in classifier.encoder.state_dict().items())


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_saved_model_is_the_same_when_loaded(pooling: str, tmp_path: Path) -> None:
    model, values = make_model(pooling=pooling, pad_last=False, eval_avg="max"), torch.randn(2, 64, 150)
    model.save_pretrained(tmp_path)
    loaded, info = CedForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    assert torch.equal(loaded(values).logits, model(values).logits)


@pytest.mark.parametrize("masked", [False, True])
def test_plain_export_takes_any_batch_and_two_patches_to_target_length(masked: bool) -> None:
    torch.manual_seed(0)
    model = CedForAudioClassification(CedConfig(embed_dim=48, depth=2, num_heads=3, num_labels=5)).eval()
    auto = Dim.AUTO
    example = {"input_values": torch.randn(3, 64, 200)}
    dynamic_shapes = {"input_values": {0: auto, 2: auto}}
    if masked:
        example["attention_mask"] = torch.ones(3, 200, dtype=torch.long)
        dynamic_shapes["attention_mask"] = {0: auto, 1: auto}
    program = torch.export.export(model, (), example, dynamic_shapes=dynamic_shapes).module()
    for batch_size, frames in [(1, 32), (2, 33), (5, 500), (2, 1008), (1, 1012)]:
        inputs = {"input_values": torch.randn(batch_size, 64, frames)}
        if masked:
            inputs["attention_mask"] = (torch.arange(frames) < frames - 7).expand(batch_size, -1).long()
        torch.testing.assert_close(program(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------------------- frame classification


def plain_steps(model: CedForAudioFrameClassification, clip: torch.Tensor) -> torch.Tensor:
    """Logits of each step within the clip, from the mean of the tokens of its column."""
    config, bands = model.config, model.config.num_patches[0]
    frames_left, logits = clip.shape[1], []
    for piece in plain_pieces(model.encoder, clip):
        tokens = plain_encode(model.encoder, piece)[0][int(config.pooling == "token") :]
        positions = len(tokens) // bands
        for t in range(min(positions, frames_left // config.patch_size)):
            column = torch.stack([tokens[f * positions + t] for f in range(bands)]).mean(dim=0)
            logits.append(model.outputlayer(column))
        frames_left -= piece.shape[-1]
    return torch.stack(logits)


@pytest.mark.parametrize("pad_last", (True, False))
@pytest.mark.parametrize("pooling", POOLINGS)
def test_frame_logits_of_a_padded_batch_equal_the_definition_clip_by_clip(pooling: str, pad_last: bool) -> None:
    for target_length in (64, 73):
        model = make_model(
            CedForAudioFrameClassification, pooling=pooling, pad_last=pad_last, target_length=target_length
        )
        for lengths in ((16, 40, 64), (16, 33, target_length, target_length + 1, 2 * target_length, 170), (150, 30)):
            clips = make_clips(lengths)
            batch = pad(clips, math.nan, extra=5)
            with torch.no_grad():
                logits, mask = model(**batch).logits, model.get_step_mask(batch["attention_mask"])
                assert mask.shape == logits.shape[:2] and logits.shape[2] == 5
                for index, clip in enumerate(clips):
                    expected = plain_steps(model, clip)
                    assert difference(logits[index, mask[index]], expected) < TOLERANCE
                    assert difference(model(clip[None]).logits[0], expected) < TOLERANCE


@pytest.mark.parametrize("frames, pad_last, steps", [(1012, True, 63), (2501, True, 155), (2501, False, 156)])
def test_the_number_of_steps_of_published_lengths(frames: int, pad_last: bool, steps: int) -> None:
    model = make_model(CedForAudioFrameClassification, target_length=1012, depth=1, pad_last=pad_last)
    with torch.no_grad():
        assert model(torch.zeros(1, 64, frames)).logits.shape == (1, steps, 5)


def test_trainer_pads_the_labels_of_steps_with_clips_of_different_lengths(golden: Path) -> None:
    """With the feature extractor's `pad`; padding does not affect the loss."""
    extractor = CedFeatureExtractor.from_pretrained(golden / "micro_hub")
    model: Any = CedForAudioFrameClassification.from_pretrained(golden / "micro_hub", pad_last=False).eval()
    rows = [{"input_values": clip, "labels": torch.rand(clip.shape[-1] // 16, 13)} for clip in make_clips((30, 150))]
    steps = torch.tensor([float(len(row["labels"])) for row in rows])
    losses = torch.stack([model(row["input_values"][None], labels=row["labels"][None]).loss for row in rows])
    batch = extractor.pad(rows, return_tensors="pt")
    assert batch["labels"].shape == (2, 9, 13)
    assert difference(model(**batch).loss, (losses * steps).sum() / steps.sum()) < TOLERANCE


def frame_loss(model: Any, clips: list[torch.Tensor], labels: list[torch.Tensor], filling: float) -> torch.Tensor:
    """The loss of a padded batch, with `filling` in the padding of clips and labels."""
    batch = pad(clips, filling, extra=20)
    steps = model.get_step_mask(batch["attention_mask"]).shape[1]
    padded = torch.full((len(clips), steps, 5), filling)
    for index, label in enumerate(labels):
        padded[index, : len(label)] = label
    return model(**batch, labels=padded).loss


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_padding_changes_neither_the_loss_of_frames_nor_its_gradients(problem_type: str) -> None:
    model = make_model(CedForAudioFrameClassification, pad_last=False, problem_type=problem_type)
    clips = make_clips((30, 64, 150))
    labels = [torch.rand(clip.shape[1] // 16, 5) for clip in clips]
    count = sum(map(len, labels))
    for clip, label in zip(clips, labels, strict=True):
        logits = model(clip[None]).logits[0]
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="sum") / (5 * count)
        entropy.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    for filling in (0.0, -100.0, math.nan):
        model.zero_grad()
        frame_loss(model, clips, labels, filling).backward()
        for name, parameter in model.named_parameters():
            assert difference(parameter.grad, expected[name]) < TOLERANCE, name


def test_multi_hot_integer_labels_of_frames_without_a_mask() -> None:
    model, values, labels = make_model(CedForAudioFrameClassification), torch.randn(2, 64, 40), torch.tensor([1, 0])
    labels = labels[:, None, None].expand(2, 2, 5)
    outputs = model(values, labels=labels)
    expected = nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels.float())
    assert difference(outputs.loss, expected) < TOLERANCE
    for wrong in (torch.rand(2, 3, 5), torch.rand(1, 2, 5), torch.rand(2, 5), torch.tensor([1, 2])):
        with pytest.raises(ValueError, match=r"must have shape \(2, 2, 5\)"):
            model(values, labels=wrong)


def test_frame_and_clip_classifiers_load_each_others_checkpoints(golden: Path, tmp_path: Path) -> None:
    clips = CedForAudioClassification.from_pretrained(golden / "micro_hub")
    frames, info = AutoModelForAudioFrameClassification.from_pretrained(golden / "micro_hub", output_loading_info=True)
    assert isinstance(frames, CedForAudioFrameClassification)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    frames.save_pretrained(tmp_path)
    again, info = CedForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    values = torch.randn(1, 64, 16)
    with torch.no_grad():
        assert torch.equal(again(values).logits, clips(values).logits)
        # A single step is the complete clip.
        assert difference(frames(values).logits[:, 0], clips(values).logits) < TOLERANCE


def test_with_a_frozen_encoder_the_head_of_a_frame_model_is_trained() -> None:
    model = make_model(CedForAudioFrameClassification).train()
    before = copy.deepcopy(model.encoder.state_dict())
    model.freeze_base_model()
    model(torch.randn(2, 64, 40), labels=torch.rand(2, 2, 5)).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"outputlayer"}


def test_a_tagger_accepts_a_frame_classifier_and_its_saved_folder(tmp_path: Path) -> None:
    model = CedForAudioFrameClassification.from_pretrained(bundled_folder())
    model.save_pretrained(tmp_path)
    noise = torch.randn(16000, generator=torch.Generator().manual_seed(0)).mul(0.1).numpy()
    for tagger in (AudioTagger(model), AudioTagger(tmp_path)):
        assert [tag.index for tag in tagger(noise)] == [tag.index for tag in AudioTagger()(noise)]
