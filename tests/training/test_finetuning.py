# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: it learns, trains only the selected parts, and can be interrupted at any time."""

import csv
import errno
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.utils.data import DataLoader
from transformers import TrainerCallback, pipeline

from ced_model import AudioTagger, CedFeatureExtractor, CedForAudioClassification, CedModel
from ced_model.audio import read_audio
from ced_model.evaluation import classification_metrics, evaluate
from ced_model.labelled import LabelledClips, read_labelled
from ced_model.pretrained import load_classifier
from ced_model.training.finetuning import Finetuned, FinetuningOptions, finetune
from ced_model.training.finetuning.clips import check_clips, hold_out
from ced_model.training.finetuning.dataset import ClipCollator, ClipDataset, mix
from ced_model.training.finetuning.model import choose_trained, set_classes
from ced_model.training.finetuning.trainer import FinetuningTrainer, _selection, class_weights
from ced_model.training.shared_trainer import EpochSampler, one_line_errors

CLASSES = ["clicks", "noise", "tone"]
IN_PROCESS = {"dataloader_num_workers": 0, "disable_tqdm": True, "report_to": "none"}
# Enough for these three classes.
FAST = FinetuningOptions(epochs=8, batch_size=8, learning_rate=4e-3, validation_share=0.2, device="cpu")


def make_sound(name: str, samples: int, rate: int, generator: np.random.Generator) -> np.ndarray:
    if name == "tone":
        return 0.3 * np.sin(2 * np.pi * generator.uniform(500, 2000) * np.arange(samples) / rate)
    if name == "noise":
        return generator.normal(scale=0.1, size=samples)
    clicks = np.zeros(samples)
    clicks[:: rate // 10] = 0.9
    return clicks


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 10 clips each of tones, noise and clicks: 0.1 to 1.2 s, several formats and sampling rates."""
    folder = tmp_path_factory.mktemp("sounds")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir()
        for index in range(10):
            rate = (16000, 22050, 8000)[index % 3]
            samples = int(
                rate * (0.1 if index == 0 else generator.uniform(0.2, 1.2))
            )  # the first one is shorter than a patch
            path = folder / name / f"{index}.{('wav', 'flac', 'ogg')[index % 3]}"
            soundfile.write(path, make_sound(name, samples, rate, generator), rate)
    return folder


@pytest.fixture(scope="session")
def base(golden: Path) -> Path:
    """The folder of a micro model with 13 classes."""
    return golden / "micro_hub"


@pytest.fixture(scope="module")
def finetuned(one_thread: None, sounds: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    output = tmp_path_factory.mktemp("finetuned") / "sound-kinds"
    return finetune(sounds, output, model=base, options=FAST, training_arguments=IN_PROCESS)


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    return CedForAudioClassification.from_pretrained(folder).state_dict()


def write_table(path: Path, rows: list[tuple[Path, str]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "labels"), *rows])
    return path


# Learning


def test_finetuning_learns_three_classes_of_clips_of_any_length(finetuned: Finetuned, sounds: Path) -> None:
    assert finetuned.labels == CLASSES
    assert finetuned.num_training_clips == 24 and finetuned.num_validation_clips == 6
    assert finetuned.evaluation is not None and finetuned.evaluation.metrics.top_1 == 1.0
    assert finetuned.skipped == []
    assert evaluate(finetuned.folder, sounds).metrics.top_1 >= 0.9


def test_the_folder_can_be_loaded_everywhere(finetuned: Finetuned, sounds: Path) -> None:
    tagger = AudioTagger.from_pretrained(finetuned.folder)
    (best,) = tagger(sounds / "noise" / "1.flac", top_k=1)
    assert tagger.labels == CLASSES and best.label == "noise"
    assert tagger.problem_type == "single_label_classification"
    waveform = read_audio(sounds / "tone" / "3.wav")
    (tag, *_) = pipeline("audio-classification", model=str(finetuned.folder))(waveform)
    assert tag["label"] == "tone"
    custom = {"audioset.py", "configuration_ced.py", "feature_extraction_ced.py", "modeling_ced.py"}
    assert custom <= {path.name for path in finetuned.folder.iterdir()}


def test_the_card_has_base_model_data_classes_training_and_results(finetuned: Finetuned) -> None:
    card = (finetuned.folder / "README.md").read_text()
    assert "Fine-tuned from `micro_hub`" in card
    assert "24 clips" in card and "each with one class" in card and "Validation clips: 6, held out" in card
    assert all(f"`{name}`" in card for name in CLASSES)
    assert "| validation | Top-1 accuracy | 1.0 |" in card
    assert "95% confidence intervals for that number of clips: top-1 0.54 to 1.00, mAP 0.54 to 1.00." in card
    assert str(finetuned.folder.parent) not in card


def test_the_held_out_clips_can_be_evaluated_again(finetuned: Finetuned) -> None:
    assert finetuned.held_out is not None and finetuned.evaluation is not None
    again = evaluate(finetuned.folder, finetuned.held_out)
    # With other batches, sums differ in their last bit.
    np.testing.assert_allclose(again.scores, finetuned.evaluation.scores, atol=1e-6, rtol=0)
    assert again.metrics.summary() == pytest.approx(finetuned.evaluation.metrics.summary(), abs=1e-6)
    assert again.metrics.num_clips == finetuned.evaluation.metrics.num_clips


def test_a_checkpoint_of_the_run_loads_with_its_front_end(finetuned: Finetuned, sounds: Path) -> None:
    checkpoint = next(finetuned.checkpoints.glob("checkpoint-*"))
    assert AudioTagger.from_pretrained(checkpoint)(sounds / "tone" / "1.flac")


def test_finetuning_learns_clips_with_several_classes(base: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    rows = []
    for index in range(40):
        has = [index % 2 == 1, index % 4 >= 2]
        parts = [
            0.2 * has[0] * make_sound("noise", 8000, 16000, generator),
            has[1] * make_sound("tone", 8000, 16000, generator),
        ]
        soundfile.write(tmp_path / f"{index}.wav", sum(parts), 16000)
        rows.append((f"{index}.wav", *map(int, has)))
    table = tmp_path / "clips.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "noise", "tone"), *rows])
    options = replace(FAST, class_weights="balanced", masks=True, mixup=0.1, crop_s=0.4, epochs=15)
    done = finetune(table, tmp_path / "out", model=base, options=options, training_arguments=IN_PROCESS)
    assert done.labels == ["noise", "tone"] and done.evaluation is not None
    assert done.evaluation.metrics.mean_average_precision > 0.95
    assert AudioTagger(done.folder).problem_type == "multi_label_classification"


# Trained parts


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The names of the tensors that have changed, without the index of the last layer of the head."""
    return {
        name for name in before if before[name].shape != after[name].shape or not torch.equal(before[name], after[name])
    }


@pytest.mark.parametrize("train", ["head", "last:1", "all"])
def test_frozen_weights_do_not_change(train: str, sounds: Path, base: Path, tmp_path: Path) -> None:
    options = replace(FAST, train=train, epochs=1, batch_size=15)
    done = finetune(sounds, tmp_path / "out", model=base, options=options, training_arguments=IN_PROCESS)
    before, after = weights_of(base), weights_of(done.folder)
    expected = {name for name in before if name.startswith("outputlayer.")}
    if train == "last:1":
        expected |= {name for name in before if name.startswith(("encoder.blocks.2.", "encoder.norm."))}
    elif train == "all":
        # These short clips do not use the last time positions; the others have changed.
        expected |= {name for name in before if name.startswith("encoder.") and ".init_bn." not in name}
    assert changed(before, after) == expected
    assert done.num_trained == sum(after[name].numel() for name in expected)


def test_merged_adapters_give_the_same_as_adapters(sounds: Path, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    options = replace(FAST, train="last:2", lora=4, epochs=3)
    done = finetune(sounds, tmp_path / "out", model=base, options=options, training_arguments=IN_PROCESS)
    before, after = weights_of(base), weights_of(done.folder)
    linear = {f"encoder.blocks.{n}.{part}.weight" for n in (1, 2) for part in ("attn.qkv", "attn.proj", "mlp.fc1")}
    linear |= {f"encoder.blocks.{n}.mlp.fc2.weight" for n in (1, 2)}
    assert changed(before, after) == linear | {name for name in before if name.startswith("outputlayer.")}

    network, feature_extractor, _ = load_classifier(base)
    set_classes(network, CLASSES, "single_label_classification", seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        unmerged = PeftModel.from_pretrained(network, done.folder / "adapter").eval()
    merged = CedForAudioClassification.from_pretrained(done.folder)
    inputs = feature_extractor([read_audio(sounds / name / "1.flac") for name in CLASSES], sampling_rate=16000)
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, unmerged(**inputs).logits, rtol=0, atol=1e-5)


def test_an_incompatible_peft_is_reported(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "__init__.py").write_text("from transformers import HybridCacheOfThePast\n")
    (tmp_path / "peft-0.5.0.dist-info").mkdir()
    (tmp_path / "peft-0.5.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.5.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [module for module in sys.modules if module.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    network = load_classifier(base).model
    with pytest.raises(ImportError) as caught:
        choose_trained(network, replace(FAST, lora=2))
    message = str(caught.value)
    assert message.startswith(f"LoRA: peft 0.5.0 does not work with transformers {transformers.__version__} (cannot")
    assert message.endswith(": pip install --upgrade peft transformers") and "\n" not in message


def test_the_head_is_kept_for_the_classes_of_the_model(base: Path) -> None:
    network = load_classifier(base).model
    head = network.outputlayer[1].weight.clone()
    own = [network.config.id2label[index] for index in range(13)]
    assert set_classes(network, own, "single_label_classification", seed=0)
    assert torch.equal(network.outputlayer[1].weight, head)
    labels = ["new", "Class_3", *own[:2]]
    assert set_classes(network, labels, "multi_label_classification", seed=0) == 3
    assert torch.equal(network.outputlayer[1].weight[1:], head[[3, 0, 1]])
    assert network.config.id2label[1] == "Class_3" and network.config.label2id["class 0"] == 2


def test_other_classes_can_be_kept_unchanged(sounds: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(sounds, tmp_path / "sounds")
    (tmp_path / "sounds" / "tone").rename(tmp_path / "sounds" / "class_3")
    options = replace(FAST, train="head", keep_classes=True, epochs=2)
    lines: list[str] = []
    done = finetune(
        tmp_path / "sounds",
        tmp_path / "out",
        model=base,
        options=options,
        training_arguments=IN_PROCESS,
        say=lines.append,
    )
    assert done.labels == [*(f"class {index}" for index in range(13)), "clicks", "noise"]
    assert any("with a head in which 1 of 3 classes start from the model's" in line for line in lines)
    before, after = weights_of(base), weights_of(done.folder)
    kept = [index for index in range(13) if index != 3]
    rows = {"outputlayer.1.weight", "outputlayer.1.bias"}
    assert all(torch.equal(before[name], after[name]) for name in before if name not in rows)
    assert all(torch.equal(before[name][kept], after[name][kept]) for name in rows)
    assert not torch.equal(before["outputlayer.1.weight"][3], after["outputlayer.1.weight"][3])
    tagger, clip = AudioTagger(done.folder), sounds / "noise" / "1.flac"
    assert tagger.labels == done.labels
    scores = {tag.label: tag.score for tag in tagger(clip, threshold=0)}
    old = {tag.label: tag.score for tag in AudioTagger(base)(clip, threshold=0) if tag.label != "class 3"}
    assert {label: scores[label] for label in old} == pytest.approx(old, abs=1e-5)
    with pytest.raises(ValueError, match="train='all'.*expected head with `keep_classes`"):
        replace(options, train="all")


def test_a_new_head_depends_only_on_the_seed(base: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        network = load_classifier(base).model
        torch.rand(3)
        set_classes(network, CLASSES, "single_label_classification", seed)
        return network.outputlayer[1].weight

    state = torch.get_rng_state()
    load_classifier(base)
    assert torch.equal(head(1), head(1)) and not torch.equal(head(1), head(2))
    torch.set_rng_state(state)


def test_an_encoder_gets_a_head(base: Path, tmp_path: Path) -> None:
    CedModel.from_pretrained(base).save_pretrained(tmp_path)
    network, feature_extractor, has_head = load_classifier(tmp_path)
    assert not has_head and feature_extractor.feature_size == 64
    assert not set_classes(network, CLASSES, "single_label_classification", seed=0)
    encoder = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("encoder.")}
    before = weights_of(base)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.items())


# The loss and the learning rates


def make_trainer(base: Path, tmp_path: Path, options: FinetuningOptions, **kwargs: Any) -> FinetuningTrainer:
    from transformers import TrainingArguments

    network = load_classifier(base).model
    problem_type = kwargs.pop("problem_type", "single_label_classification")
    set_classes(network, CLASSES, problem_type, seed=0)
    arguments = TrainingArguments(str(tmp_path), learning_rate=1e-3, weight_decay=0.01, use_cpu=True)
    return FinetuningTrainer(
        sampler=EpochSampler(np.ones(1), 1, 0),
        model=choose_trained(network, options),
        args=arguments,
        problem_type=problem_type,
        encoder_learning_rate=1e-4,
        **{"weights": None, **kwargs},
    )


def test_class_weights_are_those_of_scikit_learn_within_bounds() -> None:
    labels = np.repeat([0, 1, 2], [6, 3, 1])
    targets = np.eye(3, dtype=np.float32)[labels]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(targets, "single_label_classification"), expected, rtol=1e-6)

    targets = np.zeros((100, 4), np.float32)
    targets[:25, 0] = 1  # 75 without, 25 with
    targets[:1, 1] = 1  # 99 without, 1 with
    targets[:99, 2] = 1
    weights = class_weights(targets, "multi_label_classification")
    np.testing.assert_allclose(weights, [3.0, 10.0, 0.1, 1.0], rtol=1e-6)


def test_the_loss_has_class_weights_and_takes_mixed_labels(base: Path, tmp_path: Path) -> None:
    weights = torch.tensor([0.5, 1.0, 3.0])
    inputs = {"input_values": torch.randn(4, 64, 32) * 20 - 30, "labels": torch.tensor([0, 1, 2, 2])}
    trainer = make_trainer(base, tmp_path, FAST, weights=weights)
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    log_p = outputs.logits.log_softmax(-1)
    each = -log_p[torch.arange(4), inputs["labels"]]
    torch.testing.assert_close(loss, (each * weights[inputs["labels"]]).sum() / weights[inputs["labels"]].sum())

    mixed = torch.tensor([[0.3, 0.7, 0.0]] * 4)
    soft = trainer.compute_loss(trainer.model, inputs | {"labels": mixed})
    torch.testing.assert_close(soft, -(mixed * weights * log_p).sum(-1).mean())

    trainer = make_trainer(base, tmp_path, FAST, weights=weights, problem_type="multi_label_classification")
    trainer.model.eval()
    loss, outputs = trainer.compute_loss(trainer.model, inputs | {"labels": mixed}, return_outputs=True)
    p = outputs.logits.sigmoid()
    expected = -(weights * mixed * p.log() + (1 - mixed) * (1 - p).log()).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_head_and_encoder_have_separate_learning_rates(base: Path, tmp_path: Path) -> None:
    trainer = make_trainer(base, tmp_path, FAST)
    groups = trainer.create_optimizer().param_groups
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in settings, name
            continue
        is_matrix = parameter.ndim > 1 and "pos_embed" not in name
        rate = 1e-3 if name.startswith("outputlayer.") else 1e-4
        assert settings[id(parameter)] == (rate, 0.01 if is_matrix else 0.0), name
    assert len(settings) == sum(len(group["params"]) for group in groups)


def test_the_best_epoch_has_the_best_accuracy_and_then_the_best_brier_score() -> None:
    targets = np.eye(2)[[0, 0, 1, 1]]

    def selection(p_right: list[float], problem_type: str = "single_label_classification") -> float:
        scores = np.array([[p, 1 - p] if index < 2 else [1 - p, p] for index, p in enumerate(p_right)])
        return _selection(classification_metrics(targets, scores, problem_type=problem_type))

    assert selection([0.51, 0.51, 0.51, 0.51]) > selection([0.99, 0.99, 0.99, 0.49])
    assert selection([0.9, 0.9, 0.9, 0.4]) > selection([0.8, 0.8, 0.8, 0.4])
    multi = "multi_label_classification"
    assert selection([0.9, 0.9, 0.9, 0.9], multi) > selection([0.8, 0.8, 0.8, 0.8], multi)


# Clips


@pytest.fixture(scope="session")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> LabelledClips:
    """Six clips of three classes, 1 to 2 s at 16 kHz, in which all samples differ."""
    folder = tmp_path_factory.mktemp("long")
    generator = np.random.default_rng(0)
    paths = [str(folder / f"{index}.wav") for index in range(6)]
    for path in paths:
        soundfile.write(path, generator.uniform(-0.5, 0.5, int(generator.integers(16000, 32000))), 16000)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    return LabelledClips(paths, targets, CLASSES, "single_label_classification")


def make_dataset(clips: LabelledClips, **kwargs: Any) -> ClipDataset:
    clips, lengths = check_clips(clips, 16000)
    return ClipDataset(clips, lengths, 16000, **{"max_samples": 4000, **kwargs})


def test_clips_are_cropped_at_random_in_training_and_at_their_start_in_validation(
    long_clips: LabelledClips,
) -> None:
    training, validation = make_dataset(long_clips, seed=1), make_dataset(long_clips)
    assert training.lengths == [4000] * 6
    starts = set()
    for epoch in range(3):
        for index, path in enumerate(long_clips.paths):
            whole = read_audio(path)
            part = training[epoch, index]["waveform"]
            (start,) = (i for i in np.flatnonzero(whole == part[0]) if np.array_equal(whole[i : i + 9], part[:9]))
            np.testing.assert_array_equal(part, whole[start : start + 4000])
            starts.add((index, int(start)))
            np.testing.assert_array_equal(validation[index]["waveform"], whole[:4000])
            assert training[epoch, index]["labels"] == validation[index]["labels"] == index % 3
    assert len(starts) == 18


@pytest.mark.parametrize("workers", [0, 2])
def test_randomness_of_a_clip_depends_only_on_seed_epoch_and_index(
    workers: int, long_clips: LabelledClips, feature_extractor: CedFeatureExtractor
) -> None:
    def batches(order: list[int], batch_size: int, **kwargs: Any) -> dict[int, torch.Tensor]:
        dataset = make_dataset(long_clips, seed=5, mixup=0.4)
        collator = ClipCollator(feature_extractor, masks=True)
        keys: list[Any] = []
        loader = DataLoader(dataset, batch_size, sampler=keys, collate_fn=collator, **kwargs)
        torch.manual_seed(len(order) + batch_size)
        np.random.seed(batch_size)
        seen = {}
        for epoch in (0, 1):  # the workers are those of the first epoch
            keys[:] = [(epoch, index) for index in order]
            rows = torch.cat([torch.cat([b["input_values"].flatten(1), b["labels"]], 1) for b in loader])
            seen |= {6 * epoch + index: row for index, row in zip(order, rows, strict=True)}
        return seen

    once = batches([0, 1, 2, 3, 4, 5], 1)
    kwargs = {"num_workers": 2, "persistent_workers": True} if workers else {}
    again = batches([5, 3, 1, 0, 2, 4], 3, **kwargs)
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert not torch.equal(once[0], once[6])


def test_clips_in_a_batch_equal_single_clips(sounds: Path, feature_extractor: CedFeatureExtractor) -> None:
    dataset = make_dataset(read_labelled(sounds), seed=2, max_samples=16000)
    for masks in (False, True):
        collator = ClipCollator(feature_extractor, masks=masks)
        items = [dataset[index] for index in (0, 1, 12, 25)]
        batch = collator(items)
        for row, item in enumerate(items):
            alone = collator([item])
            frames = alone["input_values"].shape[-1]
            padding = batch["input_values"].shape[-1] - frames
            assert torch.equal(batch["input_values"][row, :, :frames], alone["input_values"][0])
            assert batch["attention_mask"][row].tolist() == [1] * frames + [0] * padding
            plain = feature_extractor(item["waveform"], sampling_rate=16000).input_values[0]
            assert masks != torch.equal(plain, alone["input_values"][0])


def test_validation_clips_are_neither_masked_nor_mixed(sounds: Path, feature_extractor: CedFeatureExtractor) -> None:
    clips = read_labelled(sounds)
    batch = ClipCollator(feature_extractor, masks=True)([make_dataset(clips, mixup=1.0)[1]])
    plain = feature_extractor(read_audio(clips.paths[1])[:4000], sampling_rate=16000)
    assert torch.equal(batch["input_values"], plain.input_values) and batch["labels"].tolist() == [0]


def test_mixing_weighs_waveforms_and_keeps_the_length_of_the_first() -> None:
    long, short = np.full(4, 1.0, np.float32), np.full(2, 2.0, np.float32)
    np.testing.assert_allclose(mix(long, short, 0.25), [1.75, 1.75, 0.25, 0.25])
    np.testing.assert_allclose(mix(short, long, 0.5), [1.5, 1.5])
    assert (long == 1).all()


def test_mixed_labels_are_in_the_proportion_of_the_waveforms(long_clips: LabelledClips) -> None:
    dataset, plain = make_dataset(long_clips, seed=3, mixup=1.0), make_dataset(long_clips, seed=3)
    waveform, labels = dataset[0]["waveform"], dataset[0]["labels"]
    assert labels.sum() == pytest.approx(1) and labels.dtype == torch.float32
    # The rest after subtracting the clip's part is exactly one other clip.
    if labels[0] < 1:
        rest = (waveform - float(labels[0]) * plain[0]["waveform"]) / (1 - float(labels[0]))
        others = [read_audio(path) for path in long_clips.paths[1:]]
        assert any(np.isclose(other, rest[0], atol=1e-5).any() for other in others)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 100),
)
def test_the_same_share_of_each_class_is_held_out(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    kept, held_out = hold_out(np.eye(len(counts), dtype=np.float32)[labels], share, seed)
    assert sorted(kept + held_out) == list(range(len(labels)))
    for index, count in enumerate(counts):
        of_class = int((labels[held_out] == index).sum())
        if count == 1:
            assert of_class == 0
        else:
            assert 1 <= of_class <= count - 1
            assert abs(of_class - share * count) <= 1
    assert (kept, held_out) == hold_out(np.eye(len(counts), dtype=np.float32)[labels], share, seed)


def test_clips_of_several_classes_count_for_their_rarest() -> None:
    targets = np.zeros((40, 3), np.float32)
    targets[:, 0] = 1
    targets[:4, 1] = 1
    targets[20:30, 2] = 1
    _, held_out = hold_out(targets, 0.25, seed=0)
    assert targets[held_out].sum(axis=0).tolist() == [1 + 2 + 6, 1, 2]


def test_unreadable_clips_are_left_out_and_damaged_ones_used_up_to_the_damage(
    sounds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    generator = np.random.default_rng(0)
    samples = generator.normal(scale=0.1, size=48000).astype(np.float32)
    soundfile.write(tmp_path / "nan.wav", np.where(np.arange(48000) == 32000, np.nan, samples), 16000, subtype="FLOAT")
    paths = [str(tmp_path / name) for name in ("text.wav", "nan.wav", "empty.wav")]
    clips = LabelledClips(paths, np.eye(3, dtype=np.float32), CLASSES, "single_label_classification")
    readable, lengths = check_clips(clips, 16000)
    assert readable.paths == paths[1:2] and lengths == [48000] and readable.targets.tolist() == [[0, 1, 0]]
    assert [item.path for item in readable.skipped] == [paths[0], paths[2]]
    assert all("\n" not in item.reason and tmp_path.name not in item.reason for item in readable.skipped)

    dataset = ClipDataset(readable, lengths, 16000, 48000)
    for _ in range(2):
        np.testing.assert_array_equal(dataset[0]["waveform"], samples[:32000])
    assert caplog.text.count("nan.wav") == 1

    soundfile.write(tmp_path / "cut.wav", samples, 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:-20000])
    cut = replace(readable, paths=[str(tmp_path / "cut.wav")])
    for _ in range(2):
        np.testing.assert_allclose(ClipDataset(cut, [48000], 16000, 48000)[0]["waveform"], samples[:38000], atol=1e-4)
    assert caplog.text.count("cut.wav: truncated") == 1

    dataset = ClipDataset(readable, lengths, 16000, 8000, seed=0)
    for epoch in range(20):  # some of them are cropped after the damage
        assert 0 < len(dataset[epoch, 0]["waveform"]) <= 8000

    with pytest.raises(ValueError, match="None of the 1 clips can be read"):
        check_clips(clips.select([0]), 16000)


# Splits and validation clips


def test_given_splits_are_used(sounds: Path, base: Path, tmp_path: Path) -> None:
    for name in CLASSES:
        for index, path in enumerate(sorted((sounds / name).iterdir())):
            split = "validation" if index % 5 == 0 else "test" if index == 9 else "train"
            (tmp_path / "data" / split / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "data" / split / name)
    options = replace(FAST, epochs=1)
    done = finetune(tmp_path / "data", tmp_path / "out", model=base, options=options, training_arguments=IN_PROCESS)
    assert (done.num_training_clips, done.num_validation_clips, done.held_out) == (21, 6, None)


def test_clips_for_validation_can_be_given_or_left_out(sounds: Path, base: Path, tmp_path: Path) -> None:
    clips = read_labelled(sounds)
    options = replace(FAST, epochs=1)
    arguments: dict[str, Any] = {"model": base, "options": options, "training_arguments": IN_PROCESS}
    rows = [(sounds / name / "1.flac", name) for name in CLASSES[:2]]
    others = [index for index, path in enumerate(clips.paths) if "1.flac" not in path]
    table = write_table(tmp_path / "validation.csv", rows)
    said: list[str] = []
    done = finetune(clips.select(others), tmp_path / "a", validation=table, say=said.append, **arguments)
    assert (done.num_training_clips, done.num_validation_clips) == (27, 2)
    assert "note: no clip of 'tone': it is not validated" in said

    arguments["options"] = replace(options, validation_share=0)
    done = finetune(clips, tmp_path / "b", **arguments)
    assert (done.num_training_clips, done.num_validation_clips, done.evaluation) == (30, 0, None)
    assert "No clips were held out" in (done.folder / "README.md").read_text()


# Bad input: one line each, before anything is written


def bad_data(case: str, sounds: Path, tmp_path: Path) -> dict[str, Any]:
    """Arguments of `finetune` with one error."""
    clips = read_labelled(sounds)
    one_each = [clips.paths.index(str(sounds / name / "1.flac")) for name in CLASSES]
    rows = [(Path(clips.paths[index]), CLASSES[number]) for number, index in enumerate(one_each)]
    cases: dict[str, dict[str, Any]] = {
        "one class": {"data": clips.select(np.flatnonzero(clips.targets[:, 0]))},
        "one class folder": {"data": write_table(tmp_path / "a.csv", [(rows[0][0], "x"), (rows[1][0], "x")])},
        "single clips": {"data": clips.select(one_each)},
        "class without text": {"data": replace(clips, labels=["a\udcff", *clips.labels[1:]])},
        "unknown validation label": {"validation": write_table(tmp_path / "b.csv", [(rows[0][0], "barking")])},
        "validation clips of training": {"validation": write_table(tmp_path / "c.csv", rows[:2])},
        "no device": {"options": replace(FAST, device="cuda")},
        "crop too long": {"options": replace(FAST, crop_s=10.2)},
        "crop too short": {"options": replace(FAST, crop_s=0.1)},
        "too many blocks": {"options": replace(FAST, train="last:4")},
        "no such data": {"data": tmp_path / "nothing"},
        "wrong model": {"model": tmp_path},
        "output dir twice": {"training_arguments": {"output_dir": "x"}},
        "unknown argument": {"training_arguments": {"learning_rat": 1}},
        "output holds clips": {"output_dir": sounds},
    }
    if case == "one class":
        one = cases[case]["data"]
        cases[case]["data"] = LabelledClips(one.paths, one.targets[:, :1], CLASSES[:1], one.problem_type)
    if case == "wrong model":
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    return cases[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("one class", "All clips have the class 'clicks': "),
        ("one class folder", "All clips have the class 'x': "),
        ("class without text", "The class 'a\\\\xff' has a name that is not valid text: rename it."),
        ("single clips", "No class of the given clips has two clips"),
        ("unknown validation label", "For validation: "),
        ("validation clips of training", "2 of 2 validation clips are also training clips"),
        ("no device", "`device='cuda'`: expected cpu, or a device that PyTorch can use"),
        ("crop too long", "`crop_s=10.2`: expected 0.15 to 10.12 seconds"),
        ("crop too short", "`crop_s=0.1`: expected 0.15 to 10.12 seconds"),
        ("too many blocks", "`train='last:4'`: expected at most last:3"),
        ("no such data", "there is no such file or folder"),
        ("wrong model", "describes a 'bert' model, not CED"),
        ("output dir twice", "`output_dir='x'`: expected no such training argument"),
        ("unknown argument", "learning_rat"),
        ("output holds clips", "has other files than those of a model"),
    ],
)
def test_invalid_input_gives_one_line_and_writes_nothing(
    case: str, message: str, sounds: Path, base: Path, tmp_path: Path
) -> None:
    if case == "no device" and torch.cuda.is_available():
        message = ""  # valid in this case; the others are tested
        return
    arguments = {"data": sounds, "output_dir": tmp_path / "out", "model": base, "options": FAST}
    with pytest.raises(ValueError) as caught:
        finetune(**arguments | bad_data(case, sounds, tmp_path))
    assert (
        message in str(caught.value)
        and ("barking" in str(caught.value)) == ("label" in case)
        and "\n" not in str(caught.value)
    )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.training").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"train": "tail"},
        {"train": "last:0"},
        {"lora": 0},
        {"lora": 4, "train": "head"},
        {"epochs": 0},
        {"learning_rate": float("nan")},
        {"mixup": -1},
        {"seed": 2**32},
        {"class_weights": "some"},
        {"validation_share": 1},
        {"device": "cuda:1"},
    ],
)
def test_invalid_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(values))}="):
        FinetuningOptions(**values)


def test_a_damaged_model_is_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        load_classifier(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_diverging_training_is_an_error(sounds: Path, base: Path, tmp_path: Path) -> None:
    options = replace(FAST, learning_rate=1e30, encoder_learning_rate=1e30, epochs=2)
    with pytest.raises(ValueError, match="lower the learning rate"):
        finetune(sounds, tmp_path / "out", model=base, options=options, training_arguments=IN_PROCESS)


# Resuming and writing


class Interrupt(TrainerCallback):
    """Ends a run after a number of steps, by Ctrl-C or by killing the process."""

    def __init__(self, step: int, kill: bool = False) -> None:
        self.step = step
        self.kill = kill

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt


def run_until_killed(data: Path, output: Path, kwargs: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    finetune(data, output, callbacks=[Interrupt(5, kill=True)], **kwargs)


@pytest.mark.parametrize("lora", [None, 2])
def test_a_resumed_run_equals_an_undisturbed_one(lora: int | None, sounds: Path, base: Path, tmp_path: Path) -> None:
    options = replace(FAST, epochs=3, mixup=0.3, masks=True, crop_s=0.5, lora=lora)
    # Saved within epochs, and with dropout, which draws from the global generator.
    arguments = IN_PROCESS | {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    model = tmp_path / "model"
    CedForAudioClassification.from_pretrained(base, drop_rate=0.1).save_pretrained(model)
    CedFeatureExtractor.from_pretrained(base).save_pretrained(model)
    kwargs: dict[str, Any] = {"model": model, "options": options, "training_arguments": arguments}
    whole = finetune(sounds, tmp_path / "whole", **kwargs)

    if lora is None:
        kwargs["training_arguments"] = arguments | {"dataloader_num_workers": 1}
        context = multiprocessing.get_context("spawn")  # whose children end with it
        process = context.Process(target=run_until_killed, args=(sounds, tmp_path / "cut", kwargs))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    else:
        with pytest.raises(KeyboardInterrupt):
            finetune(sounds, tmp_path / "cut", callbacks=[Interrupt(5)], **kwargs)
    assert not (tmp_path / "cut").exists()
    # As if killed while writing the next one.
    shutil.copytree(tmp_path / "cut.training" / "checkpoint-4", tmp_path / "cut.training" / "checkpoint-6")
    (tmp_path / "cut.training" / "checkpoint-6" / "trainer_state.json").unlink()

    with pytest.raises(ValueError, match="contains the checkpoints of a run: use `resume=True` or `overwrite=True`"):
        finetune(sounds, tmp_path / "cut", **kwargs)
    other = kwargs | {"options": replace(options, seed=7), "training_arguments": arguments | {"save_steps": 4}}
    with pytest.raises(
        ValueError, match=r"differs in save_steps \(2 then, 4 now\), seed \(0 then, 7 now\), training clips"
    ):
        finetune(sounds, tmp_path / "cut", resume=True, **other)

    said: list[str] = []
    resumed = finetune(sounds, tmp_path / "cut", resume=True, say=said.append, **kwargs)
    assert "continuing from checkpoint-4" in said
    assert changed(weights_of(whole.folder), weights_of(resumed.folder)) == set()
    assert (resumed.best_epoch, resumed.epochs) == (whole.best_epoch, whole.epochs)


@pytest.mark.parametrize("lora", [None, 2])
def test_a_run_that_was_killed_while_writing_the_model_can_be_resumed(
    lora: int | None, sounds: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It stops early, in the third epoch, since no epoch is better than the first.
    options = replace(FAST, epochs=20, patience=2, learning_rate=1e-9, lora=lora)
    kwargs: dict[str, Any] = {"model": base, "options": options, "training_arguments": IN_PROCESS}
    monkeypatch.setattr("ced_model.training.finetuning.trainer._selection", lambda metrics: 0.5)
    first = finetune(sounds, tmp_path / "out", **kwargs)
    assert (first.epochs, first.best_epoch) == (3.0, 1.0)
    weights = weights_of(first.folder)
    shutil.rmtree(first.folder)
    again = finetune(sounds, tmp_path / "out", resume=True, **kwargs)
    assert changed(weights, weights_of(again.folder)) == set()
    assert (again.epochs, again.best_epoch, again.num_trained) == (3.0, 1.0, first.num_trained)


def test_a_model_is_replaced_only_on_request(sounds: Path, base: Path, tmp_path: Path) -> None:
    kwargs: dict[str, Any] = {"model": base, "options": replace(FAST, epochs=1), "training_arguments": IN_PROCESS}
    finetune(sounds, tmp_path / "out", **kwargs)
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(ValueError, match="out is not empty: use `overwrite=True`"):
        finetune(sounds, tmp_path / "out", **kwargs)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")) == before
    kwargs["options"] = replace(FAST, epochs=1, train="head")
    finetune(sounds, tmp_path / "out", overwrite=True, **kwargs)
    assert json.loads((tmp_path / "out.training" / "run.json").read_text())["train"] == "head"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.training"]


def test_a_folder_that_is_not_a_run_is_not_changed(sounds: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "out.training").mkdir()
    (tmp_path / "out.training" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains files that are not checkpoints"):
        finetune(sounds, tmp_path / "out", model=base, options=FAST, overwrite=True, training_arguments=IN_PROCESS)
    assert (tmp_path / "out.training" / "thesis.txt").read_text() == "mine"


# The example


def test_the_example_runs_and_its_model_tags(
    sounds: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[2] / "examples" / "finetune.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(sounds), str(base), str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    tagger = AudioTagger.from_pretrained(tmp_path / "out")
    assert tagger.labels == CLASSES and len(tagger(sounds / "tone" / "1.flac", top_k=3)) == 3
    assert os.listdir(tmp_path / "out.training")


def test_the_error_of_a_full_disk_in_a_thread_of_tensorboard_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def fail(error: BaseException) -> None:
        raise error

    monkeypatch.setattr(threading, "excepthook", hook := shown.append)
    with one_line_errors():
        for error in (OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")):
            thread = threading.Thread(target=fail, args=[error])
            thread.start()
            thread.join()
    assert [arguments.exc_value.errno for arguments in shown] == [errno.EIO]
    assert threading.excepthook == hook
