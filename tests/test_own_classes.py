# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Classes from a few examples: learning them, adding them to a model, and using the model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_process
import numpy as np
import pytest
import soundfile
import torch
from transformers import pipeline
from typer.testing import CliRunner

from ced_model import AudioTagger, CedForAudioClassification
from ced_model.cli.app import app
from ced_model.head_rows import head_features
from ced_model.model_files import MODEL_FILES
from ced_model.own_classes import fit_classes, learn_classes

MODEL = Path(__file__).parent / "golden" / "micro_hub"
RATE = 16000


def hum(rng: np.random.Generator) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * rng.uniform(300, 400) * np.arange(RATE) / RATE)


def hiss(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(scale=0.1, size=RATE)


def clicks(rng: np.random.Generator) -> np.ndarray:
    return np.where(np.arange(RATE) % int(rng.integers(1000, 3000)) == 0, 0.9, 0.0)


def fill(folder: Path, make: Callable[[np.random.Generator], np.ndarray], count: int, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        soundfile.write(folder / f"{index}.wav", make(rng), RATE)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Examples of `hum` and `hiss`, counter-examples in `other`, and one more clip of each kind."""
    fill(tmp_path / "sounds" / "hum", hum, 6)
    fill(tmp_path / "sounds" / "hiss", hiss, 6)
    fill(tmp_path / "other", clicks, 6)
    for name, make in (("hum", hum), ("hiss", hiss), ("clicks", clicks)):
        soundfile.write(tmp_path / f"{name}.wav", make(np.random.default_rng(99)), RATE)
    return tmp_path / "sounds"


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the classes hum and hiss in addition to its own 13."""
    base = tmp_path_factory.mktemp("learned")
    fill(base / "sounds" / "hum", hum, 6)
    fill(base / "sounds" / "hiss", hiss, 6)
    fill(base / "other", clicks, 6)
    learn_classes(base / "sounds", base / "model", model=MODEL, negatives=[base / "other"])
    for name, make in (("hum", hum), ("hiss", hiss), ("clicks", clicks)):
        soundfile.write(base / f"{name}.wav", make(np.random.default_rng(99)), RATE)
    return base


def scores(tagger: AudioTagger, path: Path) -> dict[str, float]:
    return {tag.label: tag.score for tag in tagger(path, threshold=0)}


def ced(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_examples_become_additional_classes_of_the_model(learned):
    tagger, before = AudioTagger(learned / "model"), AudioTagger(MODEL)
    assert tagger.labels == [*before.labels, "hiss", "hum"]
    for name in ("hum", "hiss"):
        found = scores(tagger, learned / f"{name}.wav")
        assert {label for label in ("hum", "hiss") if found[label] >= 0.5} == {name}
        old = scores(before, learned / f"{name}.wav")
        assert {label: found[label] for label in old} == pytest.approx(old, abs=1e-6)
    other = scores(tagger, learned / "clicks.wav")
    assert other["hum"] < 0.5 and other["hiss"] < 0.5


def test_the_folder_is_complete_and_runs_in_transformers(learned):
    assert {path.name for path in (learned / "model").iterdir()} == MODEL_FILES
    found = scores(AudioTagger(learned / "model"), learned / "hum.wav")
    tags = pipeline("audio-classification", model=str(learned / "model"), top_k=None)(
        soundfile.read(learned / "hum.wav", dtype="float32")[0]
    )
    assert {tag["label"]: tag["score"] for tag in tags} == pytest.approx(found, abs=1e-4)
    model, report = CedForAudioClassification.from_pretrained(learned / "model", output_loading_info=True)
    assert not any(report.values())
    model.save_pretrained(learned / "saved")
    written, saved = (json.loads((learned / name / "config.json").read_text()) for name in ("model", "saved"))
    for field in ("auto_map", "custom_pipelines", "id2label", "label2id"):
        assert written[field] == saved[field]
    assert model.config.num_labels == 15 and model.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize("options", [{"engine": "torch"}, {"engine": "openvino"}, {"compute_type": "int8"}])
def test_every_engine_gives_the_same_scores(learned, options):
    expected = scores(AudioTagger(learned / "model"), learned / "hum.wav")
    tolerance = 0.2 if "compute_type" in options else 1e-4
    assert scores(AudioTagger(learned / "model", **options), learned / "hum.wav") == pytest.approx(
        expected, abs=tolerance
    )


def test_it_can_be_exported_and_learned_from_again(learned, sounds):
    assert ced("export", "-m", learned / "model", "-f", "onnx", "-o", sounds.parent / "exported").exit_code == 0
    fill(sounds / "clicks", clicks, 3)
    for name in ("hum", "hiss"):
        (sounds / name).rename(sounds / f"second {name}")
    again = learn_classes(sounds, sounds.parent / "again", model=learned / "model", window_s=0.5)
    assert again.labels[-5:] == ["hiss", "hum", "clicks", "second hiss", "second hum"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_have_the_dtype_of_the_model(sounds, dtype):
    model = CedForAudioClassification.from_pretrained(MODEL, dtype=dtype)
    half = sounds.parent / "half"
    model.save_pretrained(half)
    done = learn_classes(sounds, sounds.parent / "model", model=half)
    loaded = CedForAudioClassification.from_pretrained(done.folder)
    assert loaded.dtype == dtype
    before = model.state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor[: len(before[name])] if tensor.ndim else tensor, before[name])
    found = scores(AudioTagger(done.folder), sounds.parent / "hum.wav")
    assert found["hum"] >= 0.5 > found["hiss"]


def test_classes_can_be_replaced(sounds):
    result = ced(
        "learn", sounds, "-m", MODEL, "--replace", "-o", sounds.parent / "own", "--negatives", sounds.parent / "other"
    )
    assert result.exit_code == 0, result.output
    assert "       6      6      0  hum" in result.stdout.splitlines()
    assert f"wrote {sounds.parent / 'own'}: 2 classes from examples, instead of those of {MODEL}" in result.stdout
    tagger = AudioTagger(sounds.parent / "own")
    assert tagger.labels == ["hiss", "hum"]
    assert tagger(sounds.parent / "hiss.wav")[0].label == "hiss"


def test_clips_and_audio_are_counted_while_they_are_read(sounds):
    (sounds / "hum" / "broken.wav").write_bytes(b"RIFF")
    counted: dict[str, str | None] = {}
    heard: list[float] = []
    learn_classes(
        sounds, sounds.parent / "model", model=MODEL, on_audio=heard.append, on_clip=counted.__setitem__, say=print
    )
    assert set(counted) == {*map(str, sounds.glob("*/*.wav"))} and sum(heard) == pytest.approx(12)
    assert [Path(path).name for path, reason in counted.items() if reason] == ["broken.wav"]


def test_scores_are_those_of_the_regression(sounds):
    tagger = AudioTagger(MODEL)
    paths = sorted(map(str, sounds.glob("*/*.wav")))
    features = head_features(tagger._folder, tagger.embed(paths))
    targets = np.array([["hiss/" in path, "hum/" in path] for path in paths])
    fitted = fit_classes(features, targets, np.arange(len(paths)))
    expected = 1 / (1 + np.exp(-(features @ fitted.weight.T + fitted.bias)))
    found = AudioTagger(learn_classes(sounds, sounds.parent / "model", model=MODEL).folder)
    rows = [[scores(found, Path(path))[label] for label in ("hiss", "hum")] for path in paths]
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert ((fitted.left_out >= 0.5) == targets).mean() > 0.9


def test_learning_requires_no_torch_and_reports_clips_that_are_left_out(sounds):
    (sounds / "hum" / "broken.wav").write_bytes(b"RIFF")
    shutil.copy(sounds / "hum" / "0.wav", sounds / "hum" / "copy.wav")
    for index in range(2, 6):
        (sounds / "hiss" / f"{index}.wav").unlink()
    (sounds / "hiss" / "broken.wav").write_bytes(b"RIFF and more")
    done = cli_process.run("learn", sounds, "-m", MODEL, "-o", sounds.parent / "model", without="torch transformers")
    assert not {"torch", "transformers", "datasets"} & done.imported  # type: ignore[attr-defined]
    lines = done.stderr.splitlines()
    assert f"{sounds}/hum/copy.wav: the same as {sounds}/hum/0.wav; left out" in lines
    assert any(line.startswith(f"{sounds}/hum/broken.wav: ") and line.endswith("; left out") for line in lines)
    few = "few examples of hiss (2): scores of a class are uncertain below 5"
    assert [line for line in lines if line.startswith("few examples")] == [few]
    assert "       6 " in done.stdout


def test_a_long_recording_gives_many_counter_examples(sounds, tmp_path):
    """A single class with its counter-examples in one file: scores are calibrated on parts of it."""
    shutil.rmtree(sounds / "hiss")
    rng = np.random.default_rng(5)
    soundfile.write(tmp_path / "long.wav", np.concatenate([hiss(rng), clicks(rng)] * 30), RATE)
    done = learn_classes(sounds, tmp_path / "model", model=MODEL, negatives=[tmp_path / "long.wav"], window_s=1)
    assert done.negatives == 5 and done.reports[0].found == 6 and done.reports[0].false == 0
    tagger = AudioTagger(done.folder)
    assert scores(tagger, tmp_path / "hum.wav")["hum"] >= 0.5 > scores(tagger, tmp_path / "hiss.wav")["hum"]


def test_one_example_of_each_class_is_enough(sounds):
    for path in [*sounds.glob("*/*.wav")]:
        if path.stem != "0":
            path.unlink()
    done = learn_classes(sounds, sounds.parent / "model", model=MODEL, say=lambda line: None)
    assert [report.found for report in done.reports] == [None, None]
    assert AudioTagger(done.folder)(sounds.parent / "hum.wav", labels=["hum", "hiss"])[0].label == "hum"


def spoil(sounds: Path, how: str) -> list[Any]:
    """Makes the folder invalid; returns further arguments."""
    if how == "empty":
        (sounds / "quiet").mkdir()
    elif how == "same":
        shutil.copytree(sounds / "hum", sounds / "drone")
    elif how == "spelling":
        fill(sounds / "Hum", clicks, 1)
    elif how == "taken":
        (sounds / "hum").rename(sounds / "CLASS_3")
    elif how == "alone":
        shutil.rmtree(sounds / "hiss")
    elif how == "loose":
        shutil.copy(sounds.parent / "hum.wav", sounds)
    elif how == "deep":
        (sounds / "hiss").rename(sounds.parent / "hiss")
        shutil.copytree(sounds.parent / "hiss", sounds / "hiss" / "monday")
    elif how == "splits":
        (sounds / "hum").rename(sounds / "train")
        (sounds / "hiss").rename(sounds / "test")
    elif how == "broken":
        for path in (sounds / "hum").iterdir():
            path.write_bytes(path.name.encode())
    elif how == "control":
        (sounds / "hum").rename(sounds / "h\num")
    elif how == "negatives":
        return ["--negatives", sounds.parent / "none"]
    elif how == "silent":
        (sounds.parent / "nothing").mkdir()
        return ["--negatives", sounds.parent / "nothing"]
    elif how == "window":
        return ["--window", "60"]
    return []


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("empty", "no audio files in the folder of 'quiet'"),
        ("same", "the class 'drone' only repeats 'hum': all its clips are in both folders"),
        ("spelling", "the classes 'Hum' and 'hum' have the same name: rename or merge their folders"),
        ("taken", "the model has a class 'class 3' already: rename the folder 'CLASS_3', or leave out"),
        ("alone", "'hum' is the only class: give counter-examples (--negatives), or a second class"),
        ("loose", "hum.wav is not in a class folder; make a folder for each class"),
        ("deep", "the folders of the classes must all be equally deep, but there are"),
        ("splits", "has splits, not classes: give one of them"),
        ("broken", "no example could be read of 'hum'"),
        ("control", "'h\\\\num' cannot name a class: its name is not printable text"),
        ("negatives", "none: there are no such counter-examples"),
        ("silent", "nothing: there are no counter-examples in this folder"),
        ("window", "--window 60: expected 0.15 to 10.12 seconds"),
    ],
)
def test_invalid_examples_are_refused_in_one_line(sounds, how, expected):
    further = spoil(sounds, how)
    output = sounds.parent / "model"
    result = ced("learn", sounds, "-m", MODEL, "-o", output, *further)
    assert result.exit_code in (1, 2) and result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.endswith("; left out") and line[:7] != "model: "]
    assert len(lines) == 1 and lines[0].startswith("ced: ") and expected in lines[0], result.stderr
    assert not output.exists()


def test_without_scikit_learn_the_error_has_the_install_command(sounds, monkeypatch):
    monkeypatch.setattr("ced_model.packages.missing", list)
    result = ced("learn", sounds, "-m", MODEL, "-o", sounds.parent / "model")
    assert result.exit_code == 1
    assert result.stderr == "ced: learning classes requires scikit-learn: pip install scikit-learn\n"


def test_models_to_which_no_classes_can_be_added_are_refused(sounds, micro_model):
    for field, value, expected in (
        (
            "problem_type",
            "single_label_classification",
            "to this single_label_classification model no classes can be added",
        ),
        ("pooling", "dm", "this one has dm"),
    ):
        micro_model.config.problem_type, micro_model.config.pooling = "multi_label_classification", "mean"
        setattr(micro_model.config, field, value)
        folder = sounds.parent / field
        micro_model.save_pretrained(folder)
        with pytest.raises(ValueError, match=expected):
            learn_classes(sounds, sounds.parent / "model", model=folder)
    with pytest.raises(ValueError, match="expected a model folder: save this model first"):
        learn_classes(sounds, sounds.parent / "model", model=AudioTagger(micro_model))
    assert not (sounds.parent / "model").exists()
    learn_classes(sounds, sounds.parent / "model", model=sounds.parent / "problem_type", replace=True)


def test_a_folder_with_other_files_is_kept(sounds):
    output = sounds.parent / "model"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    result = ced("learn", sounds, "-m", MODEL, "-o", output, "--overwrite")
    assert result.exit_code == 1 and "has other files than those of a model (notes.txt)" in result.stderr
    (output / "notes.txt").unlink()
    assert ced("learn", sounds, "-m", MODEL, "-o", output).exit_code == 0
    refused = ced("learn", sounds, "-m", MODEL, "-o", output).stderr
    assert refused == f"ced: {output} is not empty: use --overwrite, or choose another output\n"  # no model is loaded
    assert ced("learn", sounds, "-m", MODEL, "-o", output, "--overwrite").exit_code == 0
