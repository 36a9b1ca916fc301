# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on strong labels: from a table and audio to a model that scores steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModelForAudioFrameClassification
from typer.testing import CliRunner

from ced_model import AudioTagger, CedFeatureExtractor, CedForAudioFrameClassification
from ced_model.cli.app import app
from ced_model.event_evaluation import evaluate_events
from ced_model.messages import UsageError
from ced_model.strong_labels import StrongClips, read_strong_labels, strong_clips
from ced_model.training.finetuning import FinetuningOptions, finetune
from ced_model.training.finetuning.clips import check_clips
from ced_model.training.finetuning.dataset import ClipCollator
from ced_model.training.finetuning.events import EventDataset

RATE = 16000
STEP = 2560
QUICK: dict[str, Any] = {"dataloader_num_workers": 0, "report_to": "none"}


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve scenes of 3 to 5 s and one of 25 s with tones and bursts of noise at known times."""
    folder = tmp_path_factory.mktemp("scenes")
    random = np.random.default_rng(0)
    lines = ["filename\tonset\toffset\tevent_label"]
    for index in range(13):
        length = 25 * RATE if index == 12 else int(random.integers(3 * RATE, 5 * RATE))
        scene = random.normal(scale=0.001, size=length)
        for start in range(RATE // 2, length - 3 * RATE // 2, 2 * RATE):
            begin, samples = start + int(random.integers(0, RATE // 2)), int(random.integers(RATE // 2, RATE))
            label = str(random.choice(["beep", "hiss"]))
            tone = 0.3 * np.sin(0.3 * np.arange(samples))
            scene[begin : begin + samples] += tone if label == "beep" else random.normal(scale=0.1, size=samples)
            lines.append(f"{index}.wav\t{begin / RATE}\t{(begin + samples) / RATE}\t{label}")
        soundfile.write(folder / f"{index}.wav", scene, RATE)
    (folder / "labels.tsv").write_text("\n".join(lines) + "\n")
    return folder / "labels.tsv"


@pytest.fixture(scope="module")
def model(labels: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder made by `ced finetune --events`, and the command's output."""
    folder = tmp_path_factory.mktemp("models") / "model"
    options = ["--epochs", "12", "--batch-size", "4", "--learning-rate", "0.01", "--validation-share", "0.2"]
    quick = ["--device", "cpu", "--threads", "1", "--set", "dataloader_num_workers=0", "--set", "report_to=none"]
    arguments = ["finetune", labels, "--events", "--model", golden / "micro_hub", "--output", folder]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, *options, *quick]])
    assert result.exit_code == 0, result.stderr
    return folder, result.stdout


def test_it_finds_the_events_of_the_training_data(model: tuple[Path, str], labels: Path) -> None:
    found = evaluate_events(model[0], labels, finding={"merge_gap_s": 0.2})
    assert found.labels == ["beep", "hiss"]
    assert found.scores.segment_based.micro.f_measure > 0.9
    assert found.scores.event_based.micro.f_measure > 0.6


def test_the_folder_works_in_transformers_taggers_and_commands(
    model: tuple[Path, str], labels: Path, tmp_path: Path
) -> None:
    loaded = AutoModelForAudioFrameClassification.from_pretrained(model[0])
    assert isinstance(loaded, CedForAudioFrameClassification) and not loaded.config.pad_last
    timeline = AudioTagger(model[0]).timeline(labels.parent / "12.wav")
    assert timeline.scores.shape == (156, 2) and timeline.duration_s == 25.0
    card = (model[0] / "README.md").read_text()
    assert "the times of its classes" in card and "Event-based F1" in card
    output = tmp_path / "found.tsv"
    result = CliRunner().invoke(
        app, ["tag", str(labels.parent), "--model", str(model[0]), "--format", "dcase", "--output", str(output)]
    )
    assert result.exit_code == 0 and len(output.read_text().splitlines()) > 10
    result = CliRunner().invoke(app, ["evaluate", str(labels), "--events", "--results", str(output)])
    assert result.exit_code == 0 and "13 recordings" in result.stdout


def test_the_printed_commands_work(model: tuple[Path, str]) -> None:
    folder, printed = model
    held_out = folder.with_name("model.training") / "held_out.tsv"
    assert f"ced evaluate {held_out} --model {folder} --events" in printed and "event-based" in printed
    result = CliRunner().invoke(app, ["evaluate", str(held_out), "--model", str(folder), "--events"])
    assert result.exit_code == 0
    own = [line for line in printed.splitlines() if line.startswith("segment-based")]
    assert [line for line in result.stdout.splitlines() if line.startswith("segment-based")] == own


@pytest.mark.parametrize("options", [{"train": "head", "keep_classes": True, "class_weights": "balanced"}, {"lora": 2}])
def test_parts_adapters_and_class_weights_work(
    options: dict[str, Any], labels: Path, golden: Path, tmp_path: Path
) -> None:
    chosen = FinetuningOptions(epochs=1, batch_size=8, mixup=0.3, masks=True, validation_share=0, **options)
    base = golden / "micro_hub"
    done = finetune(labels, tmp_path / "model", model=base, options=chosen, training_arguments=QUICK, events=True)
    tagger = AudioTagger(tmp_path / "model")
    kept = AudioTagger(base).labels if "keep_classes" in options else []
    assert done.labels == tagger.labels == [*kept, "beep", "hiss"] and done.evaluation is None
    assert tagger.timeline(labels.parent / "0.wav").scores.shape[1] == len(tagger.labels)


# Items


@pytest.fixture
def clips(labels: Path) -> tuple[StrongClips, list[int]]:
    clips, lengths = check_clips(strong_clips(read_strong_labels(labels)), RATE)
    assert isinstance(clips, StrongClips)
    return clips, lengths


def make_dataset(clips: tuple[StrongClips, list[int]], **options: Any) -> EventDataset:
    return EventDataset(*clips, RATE, 63 * STEP, step=STEP, **options)


def test_pieces_cover_long_recordings_and_have_the_targets_of_their_steps(clips: tuple[StrongClips, list[int]]) -> None:
    dataset = make_dataset(clips)
    assert [start for clip, start in dataset.pieces if clip == 12] == [0, 63 * STEP, 25 * RATE - 63 * STEP]
    assert len(dataset) == 15 and dataset.lengths[-1] == 63 * STEP
    for index, (clip, start) in enumerate(dataset.pieces):
        item = dataset[index]
        assert item["labels"].shape == (63, 2)
        for step in range(len(item["waveform"]) // STEP):
            for label in range(2):
                begin, end = (start + step * STEP) / RATE, (start + (step + 1) * STEP) / RATE
                covered = sum(
                    max(0.0, min(end, offset) - max(begin, onset))
                    for onset, offset, each in clips[0].events[clip]
                    if each == label
                )
                if abs(covered - 0.08) > 1e-3:
                    assert item["labels"][step, label] == (covered > 0.08)


def test_an_event_shorter_than_a_step_has_one(clips: tuple[StrongClips, list[int]]) -> None:
    clips[0].events[0][:] = [(0.30, 0.32, 1)]
    assert make_dataset(clips)[0]["labels"].nonzero().tolist() == [[1, 1]]


def test_steps_that_only_pad_a_clip_have_no_labels(
    clips: tuple[StrongClips, list[int]], feature_extractor: CedFeatureExtractor
) -> None:
    dataset = make_dataset(clips)
    batch = ClipCollator(feature_extractor)([dataset[0], dataset[12]])
    steps = feature_extractor.num_frames(clips[1][0]) // 16
    assert batch["labels"].shape == (2, batch["input_values"].shape[-1] // 16, 2)
    assert (batch["labels"][0, :steps] >= 0).all() and (batch["labels"][0, steps:] == -1).all()
    assert (batch["labels"][1] >= 0).all()


def test_pieces_of_long_recordings_start_differently_in_each_epoch(clips: tuple[StrongClips, list[int]]) -> None:
    dataset = make_dataset(clips, seed=0)
    first, again, other = dataset[0, 13], dataset[0, 13], dataset[1, 13]
    assert np.array_equal(first["waveform"], again["waveform"]) and torch.equal(first["labels"], again["labels"])
    assert not np.array_equal(first["waveform"], other["waveform"])


# Bad input


def test_invalid_labels_are_refused_with_their_line(labels: Path, golden: Path, tmp_path: Path) -> None:
    (tmp_path / "late.tsv").write_text("0.wav\t0.5\t1\tbeep\n0.wav\t3\t30\thiss\n")
    (tmp_path / "owl.tsv").write_text("1.wav\t0.5\t1\tbeep\n1.wav\t1\t2\towl\n")
    how: dict[str, Any] = {"model": golden / "micro_hub", "events": True, "reading": {"audio_root": labels.parent}}
    with pytest.raises(UsageError, match="late.tsv, line 2: the offset 30 is after the end of 0.wav"):
        finetune(tmp_path / "late.tsv", tmp_path / "model", **how)
    with pytest.raises(UsageError, match="owl.tsv, line 2: 'owl' is not among the 2 classes: 'beep', 'hiss'"):
        finetune(labels, tmp_path / "model", validation=tmp_path / "owl.tsv", **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.tsv", "owl.tsv"]


@pytest.mark.parametrize("option", ["--multi-label", "--split=train", "--label-column=x", "--dataset=a/b"])
def test_options_of_clips_are_refused(option: str, labels: Path, tmp_path: Path) -> None:
    data = [] if "dataset" in option else [str(labels)]
    result = CliRunner().invoke(app, ["finetune", *data, "--events", option, "--output", str(tmp_path / "model")])
    assert result.exit_code == 2 and f"{option.partition('=')[0]} has no effect with --events" in result.stderr
