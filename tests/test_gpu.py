# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Results on a CUDA GPU equal those on a CPU, within the precision. Not run by default:

    pytest -m gpu

With CED_TEST_DEVICE=cpu (or mps) the same tests run on that device.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_modeling import make_clips, make_model, pad, uncompiled_flex  # noqa: F401
from transformers import pipeline
from transformers.utils import is_flash_attn_2_available

from ced_model import AudioTagger, CedFeatureExtractor, CedForAudioClassification, load_audio
from ced_model.bundled import bundled_folder
from ced_model.engines import has_cuda_gpu

pytestmark = pytest.mark.gpu

DEVICE = os.environ.get("CED_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE.startswith("cuda")
RATE = 16000
ATTENTIONS = ["eager", "sdpa", "flex_attention"]
HALF_ATTENTIONS = [*ATTENTIONS, *(["flash_attention_2"] if ON_CUDA and is_flash_attn_2_available() else [])]
# Largest difference of probabilities of ced-nano. By default, PyTorch uses TF32 for convolutions on a GPU.
TOLERANCES = {"float32": 2e-3, "bfloat16": 0.05, "float16": 0.01}


@pytest.fixture(autouse=True)
def has_device() -> None:
    if ON_CUDA and not torch.cuda.is_available():
        pytest.fail("PyTorch finds no CUDA GPU: CED_TEST_DEVICE=cpu runs these tests without one.")


@pytest.fixture(scope="module")
def sounds(resources: Path) -> list[Any]:
    """Four files, and noise of 0.3 s and 34 s."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=34 * RATE).astype(np.float32)
    return [*sorted(resources.glob("*.flac"))[:4], noise[:4800], noise]


@pytest.fixture(scope="module")
def on_cpu() -> AudioTagger:
    return AudioTagger(engine="torch", device="cpu", num_threads=1)


def scores_of(tagger: AudioTagger, sounds: list[Any], **options: Any) -> np.ndarray:
    """(sounds, classes)"""
    results = tagger.tag(sounds, top_k=len(tagger.labels), **options)
    return np.array([[tag.score for tag in sorted(result.tags, key=lambda tag: tag.index)] for result in results])


def nano(dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> CedForAudioClassification:
    folder = bundled_folder("ced-nano")
    model = CedForAudioClassification.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return model.eval().to(DEVICE)


def inputs(lengths_s: tuple[float, ...] = (0.5, 3.0, 9.7, 25.0), device: str = DEVICE) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(1)
    clips = [rng.normal(scale=0.1, size=int(length * RATE)).astype(np.float32) for length in lengths_s]
    return dict(CedFeatureExtractor()(clips, sampling_rate=RATE, device=device))


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    """Probabilities of `inputs()` on the CPU in float32."""
    model = CedForAudioClassification.from_pretrained(bundled_folder("ced-nano"), dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(**inputs(device="cpu")).logits.sigmoid()


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    return (logits.float().sigmoid().cpu() - expected).abs().max().item()


# AudioTagger and the pipeline


def test_the_default_is_torch_on_a_cuda_gpu() -> None:
    tagger = AudioTagger()
    assert (tagger.device == "cuda") == has_cuda_gpu()
    assert (tagger.engine == "torch") == has_cuda_gpu()
    if ON_CUDA:
        assert has_cuda_gpu(), "the NVIDIA driver does not see the GPU that PyTorch uses"


@pytest.mark.parametrize(
    ("compute_type", "batch_size"), [("float32", 1), ("float32", None), ("bfloat16", None), ("float16", 64)]
)
def test_tags_are_those_of_the_cpu(
    compute_type: str, batch_size: int | None, sounds: list[Any], on_cpu: AudioTagger
) -> None:
    tagger = AudioTagger(engine="torch", device=DEVICE, compute_type=compute_type, batch_size=batch_size)
    assert tagger.device == DEVICE
    assert np.abs(scores_of(tagger, sounds) - scores_of(on_cpu, sounds)).max() < TOLERANCES[compute_type]


def test_embeddings_timelines_and_streams_are_those_of_the_cpu(sounds: list[Any], on_cpu: AudioTagger) -> None:
    tagger = AudioTagger(engine="torch", device=DEVICE)
    ours, theirs = (t.embed(sounds) for t in (tagger, on_cpu))
    assert np.abs(ours - theirs).max() < 0.01 * np.abs(theirs).max()
    ours, theirs = (t.timeline(sounds[-1]).scores for t in (tagger, on_cpu))
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < TOLERANCES["float32"]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_pipeline_computes_on_its_device(batch_size: int, sounds: list[Any], on_cpu: AudioTagger) -> None:
    classify = pipeline("audio-classification", model=str(bundled_folder("ced-nano")), device=DEVICE)
    assert classify.device.type == torch.device(DEVICE).type
    results = classify([str(path) for path in sounds[:4]], top_k=None, batch_size=batch_size)
    by_label = [{tag["label"]: tag["score"] for tag in result} for result in results]
    ours = np.array([[scores[label] for label in on_cpu.labels] for scores in by_label])
    assert np.abs(ours - scores_of(on_cpu, sounds[:4])).max() < TOLERANCES["float32"]


# The front end


def test_log_mels_are_computed_on_the_device_and_are_those_of_numpy(resources: Path) -> None:
    clips = [load_audio(path)[0] for path in sorted(resources.glob("*.flac"))]
    extractor = CedFeatureExtractor()
    ours, theirs = (extractor(clips, sampling_rate=RATE, device=device) for device in (DEVICE, "cpu"))
    assert {value.device.type for value in ours.values()} == {torch.device(DEVICE).type}
    assert torch.equal(ours["attention_mask"].cpu(), theirs["attention_mask"])
    is_loud = theirs["input_values"] > theirs["input_values"].amax(1, keepdim=True) - 60
    assert (ours["input_values"].cpu() - theirs["input_values"]).abs()[is_loud].max() < 1e-2
    on_device = [torch.from_numpy(clip).to(DEVICE) for clip in clips]
    assert torch.equal(extractor(on_device, sampling_rate=RATE)["input_values"], ours["input_values"])


# The model


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_each_attention_implementation_equals_the_cpu(
    attention: str, expected: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    if not ON_CUDA and attention == "flex_attention":  # compiling its kernel for a CPU takes minutes
        request.getfixturevalue("uncompiled_flex")
    model = nano(attention=attention)
    assert model.config._attn_implementation == attention
    with torch.inference_mode():
        assert difference(model(**inputs()).logits, expected) < TOLERANCES["float32"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("attention", HALF_ATTENTIONS)
def test_each_attention_in_half_precision(
    attention: str, dtype: str, expected: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    if not ON_CUDA and attention == "flex_attention":
        request.getfixturevalue("uncompiled_flex")
    model = nano(getattr(torch, dtype), attention)
    assert model.encoder.init_bn.weight.dtype == torch.float32
    with torch.inference_mode():
        assert difference(model(**inputs()).logits, expected) < TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_is_close_to_the_cpu(dtype: str, expected: torch.Tensor) -> None:
    model = nano()
    with torch.inference_mode(), torch.autocast(torch.device(DEVICE).type, getattr(torch, dtype)):
        assert difference(model(**inputs()).logits, expected) < TOLERANCES[dtype]


def test_a_compiled_model_equals_the_cpu(expected: torch.Tensor) -> None:
    backend = "inductor" if ON_CUDA else "aot_eager"  # inductor's C++ for a CPU takes minutes to compile
    model = torch.compile(nano(), fullgraph=True, dynamic=True, backend=backend)
    with torch.inference_mode():
        assert difference(model(**inputs()).logits, expected) < TOLERANCES["float32"]
        other = inputs((1.0, 4.0))
        alone = nano()(**other).logits.sigmoid().cpu()
        assert difference(model(**other).logits, alone) < TOLERANCES["float32"]


def test_clips_do_not_influence_their_neighbours_in_a_batch(expected: torch.Tensor) -> None:
    batch = inputs()
    batch["input_values"] = torch.where(
        batch["attention_mask"][:, None].bool(), batch["input_values"], torch.inf
    )  # padding is ignored
    with torch.inference_mode():
        assert difference(nano()(**batch).logits, expected) < TOLERANCES["float32"]


@pytest.mark.parametrize("pooling", ["mean", "logit", "dm", "token"])
def test_gradients_are_those_of_the_cpu(pooling: str) -> None:
    clips = make_clips([70, 130, 64])
    gradients = []
    for device in ("cpu", DEVICE):
        model = make_model(pooling=pooling).to(device)
        batch = {name: value.to(device) for name, value in pad(clips).items()}
        model(**batch, labels=torch.ones(3, 5, device=device)).loss.backward()
        gradients.append([parameter.grad.cpu() for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        assert (ours - theirs).abs().max() <= 0.02 * theirs.abs().max() + 1e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_training_in_half_precision_lowers_the_loss(dtype: str) -> None:
    kind = torch.device(DEVICE).type
    model, batch = nano().train(), inputs((1.0, 2.0, 3.0))
    labels = torch.zeros(3, 527, device=DEVICE)
    labels[:, 0] = 1
    scaler = torch.amp.GradScaler(kind, enabled=dtype == "float16" and ON_CUDA)
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(4):
        with torch.autocast(kind, getattr(torch, dtype)):
            loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
