# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets in the layout of the Hugging Face Hub: tagging, evaluation and training without torchcodec."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from cli_process import run
from dataset_hub import dataset_hub
from pyarrow import parquet
from typer.testing import CliRunner

from ced_model import AudioTagger, dataset_inputs
from ced_model.cli.app import app
from ced_model.dataset_rows import DatasetRows, find_dataset

RECORDINGS = {"misc_crow": "Crow", "perc_bell": "Bell", "loop_tabla": "Tabla", "misc_burp": "Burping, eructation"}
NAMES = list(RECORDINGS.values())
AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_shard(
    path: Path, audio: list[Any], column: str = "audio", features: dict | None = None, **columns: Any
) -> None:
    """Writes a Parquet file with features as stored by datasets, and three rows per row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {column: {"_type": "Audio"}} | (features or {})
    table = pa.table({column: pa.array(audio, AUDIO), **columns})
    described = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(described), path, row_group_size=3)


@pytest.fixture(scope="module")
def recordings(resources: Path) -> list[dict[str, Any]]:
    return [{"bytes": (resources / f"{name}.flac").read_bytes(), "path": f"{name}.flac"} for name in RECORDINGS]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, recordings: list[dict[str, Any]]) -> Path:
    """Recordings in Parquet: eight for training in two files, four for validation, six for testing (two invalid)."""
    folder = tmp_path_factory.mktemp("owner") / "sounds"
    label = {"label": {"names": NAMES, "_type": "ClassLabel"}}
    for shard in range(2):
        named = [audio | {"path": f"{shard}{audio['path']}"} for audio in recordings]
        write_shard(folder / f"data/train-0000{shard}-of-00002.parquet", named, features=label, label=range(4))
    write_shard(folder / "data/validation-00000-of-00001.parquet", recordings[::-1], features=label, label=[3, 2, 1, 0])
    bad = [*recordings, {"bytes": b"no audio", "path": "bad.wav"}, None]
    bad[1] = bad[1] | {"path": bad[0]["path"]}  # as for files with the same name in several folders
    write_shard(folder / "data/test-00000-of-00001.parquet", bad, features=label, label=[0, 1, 2, 3, -1, 0])
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Sounds\n")
    return folder


@pytest.fixture(scope="module")
def audio_folder(tmp_path_factory: pytest.TempPathFactory, resources: Path) -> Path:
    """The recordings as files: one split with a metadata.csv, one with a folder per class."""
    folder = tmp_path_factory.mktemp("owner") / "files"
    for name, label in RECORDINGS.items():
        (folder / "test" / label).mkdir(parents=True)
        shutil.copy(resources / f"{name}.flac", folder / "test" / label)
    (folder / "train").mkdir()
    for name in ("misc_crow", "perc_bell"):
        shutil.copy(resources / f"{name}.flac", folder / "train")
    (folder / "train" / "metadata.csv").write_text("file_name,label\nperc_bell.flac,Bell\n")
    return folder


@pytest.fixture
def ced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs `ced ARGUMENTS…` in this process, with a separate cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def invoke(*arguments: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.stderr
        return result

    return invoke


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_tags_of_rows_equal_those_of_their_files(ced: Any, repository: Path, resources: Path):
    result = ced("tag", "--dataset", repository, "--split", "test", "-f", "jsonl", code=1)
    tagged = records(result.stdout)
    assert [item["file"] for item in tagged] == [
        "test:0", "test:1", "loop_tabla.flac", "misc_burp.flac", "bad.wav", "test:5",
    ]  # fmt: skip
    files = records(ced("tag", *(resources / f"{name}.flac" for name in RECORDINGS), "-f", "jsonl").stdout)
    assert [item["tags"] for item in tagged[:4]] == [item["tags"] for item in files]
    assert tagged[4]["error"].startswith("row 4 of test, column 'audio': neither libsndfile")
    assert tagged[5]["error"] == "row 5 of test, column 'audio': a row without audio: its bytes and path are None"
    events = ced("tag", "--dataset", repository / "data/test-00000-of-00001.parquet", "--events", "-f", "csv", code=1)
    assert "row 4 of train" in events.stdout  # the split of a single file in datasets


def test_an_interrupted_run_over_a_data_set_is_resumed(ced: Any, repository: Path, tmp_path: Path):
    output, whole = tmp_path / "tags.jsonl", tmp_path / "whole.jsonl"
    arguments = ("tag", "--dataset", repository, "--split", "all", "--output")
    ced(*arguments, whole, code=1)
    output.write_text("".join(whole.read_text().splitlines(keepends=True)[:5]))
    result = ced(*arguments, output, "--resume", code=1)
    assert "5 results" in result.stderr and "13 of 13 inputs" in result.stderr
    resumed, expected = records(output.read_text()), records(whole.read_text())
    assert [item["file"] for item in resumed] == [item["file"] for item in expected] and len(resumed) == 18
    assert [item.get("tags", [{}])[0].get("label") for item in resumed] == [
        item.get("tags", [{}])[0].get("label") for item in expected
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "tets"], "--split tets: expected test, train, validation, or all"),
        ([], "--split is not given: expected train, validation, test, or all"),
        (["--split", "test", "--audio-column", "adio"], "--audio-column adio: expected audio"),
        (["--split", "test", "--audio-column", "label"], "--audio-column label: expected a column of audio: audio"),
        (["--split", "test", "--config", "english"], "--config english: expected default"),
        (["--split", "test", "x.wav"], "give either PATHS or --dataset, not both"),
        (["--split", "test", "--ray", "-o", "tags"], "give either --ray or --dataset, not both"),
    ],
)
def test_unknown_splits_and_columns_are_refused_with_the_existing_ones(
    ced: Any, repository: Path, arguments: list[str], message: str
):
    result = ced("tag", "--dataset", repository, *arguments, code=2)
    assert result.stderr == f"ced: {message}\n" and not result.stdout


def test_inputs_that_are_not_data_sets_are_refused_in_one_line(ced: Any, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    (tmp_path / "clip.wav").write_bytes(b"RIFF")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" * 9)
    write_shard(tmp_path / "silent" / "a.parquet", [None], column="x", features={"x": {"_type": "Image"}})
    for name, message, code in (
        ("empty", "it contains no files of a data set", 2),
        ("text", "text files; expected Parquet files or audio files", 2),
        ("clip.wav", "a data set is a folder, a Parquet file or a Hub id", 2),
        ("no/such/folder", "not a file, a folder or a Hub id (owner/name)", 2),
        ("bad.parquet", "Parquet", 1),
        ("silent", "no column of audio with its bytes; it has x (struct<", 2),
    ):
        result = ced("tag", "--dataset", tmp_path / name, code=code)
        assert message in result.stderr and result.stderr.count("\n") == 1 and name in result.stderr
    assert "--split needs --dataset" in ced("tag", tmp_path, "--split", "test", code=2).stderr
    assert "not a file, a folder or a Hub id (owner/name)" in ced("tag", "--dataset", "recordngs", code=2).stderr
    missing = run("tag", "--dataset", tmp_path, code=1, without="datasets").stderr
    assert missing == "ced: reading a data set requires datasets: pip install datasets\n"


def test_configurations_and_splits_are_those_of_the_card(repository: Path, tmp_path: Path):
    shutil.copytree(repository / "data", tmp_path / "sounds" / "data")
    (tmp_path / "sounds" / "README.md").write_text(
        "---\nconfigs:\n- config_name: small\n  data_files:\n  - split: probe\n    path: data/valid*.parquet\n"
        "- config_name: large\n  data_files: data/*.parquet\n---\n"
    )
    files = find_dataset(str(tmp_path / "sounds"), "small")
    assert list(files.splits) == ["probe"] and len(DatasetRows(files, files.choose(None))) == 4
    with pytest.raises(ValueError, match="`config=None`: expected small, large"):
        find_dataset(str(tmp_path / "sounds"))


def test_audio_that_is_stored_as_a_plain_struct_is_found(recordings: Any, tmp_path: Path):
    """The form in which `datasets` writes rows made by `map`."""
    value = {"bytes": {"dtype": "binary", "_type": "Value"}, "path": {"dtype": "string", "_type": "Value"}}
    write_shard(tmp_path / "a.parquet", recordings, "clip", {"clip": value}, index=range(4))
    assert [row["path"] for row in dataset_inputs(tmp_path / "a.parquet")] == [row["path"] for row in recordings]
    for type_ in (pa.binary(), pa.large_binary(), pa.binary_view()):
        parquet.write_table(pa.table({"clip": pa.array([b"RIFF"], type_)}), tmp_path / "b.parquet")
        assert list(dataset_inputs(tmp_path / "b.parquet")) == [{"bytes": b"RIFF", "path": "train:0"}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": None}, "`dataset=None`: expected the id of a Hub repository"),
        ({"dataset": b"sounds"}, "`dataset=b'sounds'`: expected the id of a Hub repository"),
        ({"split": 3}, "`split=3`: expected train, validation, test, or all"),
        ({"split": "test", "audio_column": 3}, "`audio_column=3`: expected audio"),
        ({"split": "test", "config": 3}, "`config='3'`: expected default"),
    ],
)
def test_arguments_of_wrong_types_are_refused_in_one_line(arguments: dict[str, Any], message: str, repository: Path):
    with pytest.raises(ValueError) as caught:
        dataset_inputs(**({"dataset": repository} | arguments))
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_a_folder_of_audio_files_is_read_by_its_metadata_or_files(ced: Any, audio_folder: Path):
    train = records(ced("tag", "--dataset", audio_folder, "--split", "train", "-f", "jsonl").stdout)
    assert [item["file"] for item in train] == ["train/perc_bell.flac"]
    refused = ced("tag", "--dataset", audio_folder, "--audio-column", "audio", code=2).stderr
    assert refused == f"ced: --audio-column audio: expected no column: {audio_folder} consists of audio files\n"
    test = records(ced("tag", "--dataset", audio_folder, "--split", "test", "-f", "jsonl").stdout)
    assert [item["file"] for item in test] == sorted(f"test/{label}/{name}.flac" for name, label in RECORDINGS.items())


def test_python_tags_data_sets_and_the_rows_of_datasets(repository: Path, audio_folder: Path):
    tagger = AudioTagger()
    expected = [result.tags for result in tagger.tag(dataset_inputs(str(repository), "validation"))]
    assert len(expected) == 4 and all(expected)
    streamed = datasets.load_dataset(str(repository), split="validation", streaming=True)
    rows = streamed.cast_column("audio", datasets.Audio(decode=False))
    results = list(tagger.tag(rows))
    assert [result.tags for result in results] == expected
    assert [result.name for result in results] == [f"{name}.flac" for name in reversed(RECORDINGS)]
    table = datasets.Dataset.from_parquet(str(repository / "data" / "validation-00000-of-00001.parquet"))
    for decoded in (table, table["audio"], streamed):  # not decoded by datasets, which would require torchcodec
        assert [result.tags for result in tagger.tag(decoded)] == expected
    assert tagger(table) == expected and tagger.embed(table["audio"]).shape[0] == 4
    columns = datasets.Dataset.from_list([row["audio"] for row in rows])
    assert tagger(columns["bytes"]) == expected and tagger(next(iter(rows))) == expected[0]
    names = [result.name for result in tagger.tag(dataset_inputs(str(audio_folder), "test"))]
    assert len(names) == 4 and all(map(os.path.isfile, names))


@pytest.mark.parametrize("kind", ["class labels", "names", "lists", "indices", "a column per class"])
def test_rows_are_evaluated_with_any_kind_of_labels(
    ced: Any, recordings: Any, resources: Path, tmp_path: Path, kind: str
):
    index = AudioTagger().labels.index
    columns: dict[str, Any] = {
        "class labels": {"label": [0, 1, 2, 3]},
        "names": {"category": NAMES},
        "lists": {"labels": [[name] for name in NAMES]},
        "indices": {"target": [[index(name)] for name in NAMES]},
        "a column per class": {name: np.eye(4)[number] for number, name in enumerate(NAMES)},
    }[kind]
    features = {"label": {"names": NAMES, "_type": "ClassLabel"}} if kind == "class labels" else None
    write_shard(tmp_path / "sounds/test.parquet", recordings, "sound", features, text=["x"] * 4, **columns)
    chosen = ["--label-column", "target"] if kind == "indices" else []
    arguments = ["--dataset", tmp_path / "sounds", *chosen, "--predictions", tmp_path / "rows.npz", "--json"]
    report = json.loads(ced("evaluate", *arguments).stdout)
    lines = [f'{resources / name}.flac,"{label}"\n' for name, label in RECORDINGS.items()]
    (tmp_path / "files.csv").write_text("path,label\n" + "".join(lines))
    files = json.loads(
        ced("evaluate", tmp_path / "files.csv", "--predictions", tmp_path / "files.npz", "--json").stdout
    )
    assert report["mAP"] == files["mAP"] and report["num_classes"] == 4 and report["data"].endswith("sounds")
    rows, expected = np.load(tmp_path / "rows.npz"), np.load(tmp_path / "files.npz")
    np.testing.assert_array_equal(np.sort(rows["scores"]), np.sort(expected["scores"]))
    assert rows["files"].tolist() == [f"{name}.flac" for name in RECORDINGS]


def test_invalid_rows_and_labels_of_an_evaluation_are_reported(
    ced: Any, repository: Path, recordings: Any, tmp_path: Path
):
    result = ced("evaluate", "--dataset", repository, code=1)
    assert "split: test (of train, validation, test)" in result.stderr
    assert "test:5: row 5 of test, column 'audio': a row without audio" in result.stderr
    assert "bad.wav: it has no label" in result.stderr
    wrong = ced("evaluate", "--dataset", repository, "--label-column", "lable", code=2).stderr
    assert wrong.endswith("ced: --label-column lable: expected label\n")
    write_shard(tmp_path / "sounds/test.parquet", recordings, label=[0, 1, 2, 527])
    wrong = ced("evaluate", "--dataset", tmp_path / "sounds", code=2).stderr
    assert "row 3 of test, column 'label': 527 is not an index of the model's 527 classes" in wrong
    for arguments in ([], [repository, "--dataset", repository], ["--dataset", repository, "--audio-root", "."]):
        assert ced("evaluate", *arguments, code=2).stderr.count("\n") == 1


def test_a_data_set_can_be_used_for_training(ced: Any, repository: Path, golden: Path, tmp_path: Path):
    training = ("finetune", "--dataset", repository, "-m", golden / "micro_hub", "--epochs", "1", "--crop", "1")
    result = ced(*training, "-o", tmp_path / "model")
    assert "8 clips of 4 classes, one per clip; 4 for validation" in result.stderr
    assert f"writing the audio of {repository}" in result.stderr
    assert sorted(AudioTagger(tmp_path / "model").labels) == sorted(NAMES)
    again = ced(*training, "-o", tmp_path / "again", "--split", "test", "--validation-share", "0")
    assert "4 clips of 4 classes" in again.stderr and "its name" not in again.stderr
    teaching = ("distill", "teach", "--dataset", repository, "-t", golden / "micro_hub", "-e", "1", "-o")
    taught = ced(*teaching, tmp_path / "store")
    assert "in 8 files" in taught.stderr and "writing" not in taught.stderr  # the audio was written before
    assert "1 epoch of" in ced(*teaching, tmp_path / "store").stderr


SCRIPT = """
import json, sys
from typer.testing import CliRunner
from ced_model.cli.app import app
for line in sys.stdin:
    result = CliRunner().invoke(app, json.loads(line))
    print(json.dumps([result.exit_code, result.stdout, result.stderr, repr(result.exception)]))
"""


def test_data_sets_on_the_hub_are_streamed_and_errors_are_one_line(
    repository: Path, audio_folder: Path, tmp_path: Path, ced: Any
):
    commands = [
        ["tag", "--dataset", "owner/sounds", "--split", "test", "-f", "jsonl"],
        ["tag", "--dataset", "owner/files@main", "--split", "test", "-f", "jsonl"],
        ["tag", "--dataset", "owner/secret"],
        ["tag", "--dataset", "owner/nothing"],
        ["tag", "--dataset", "owner/sounds@v9"],
        ["tag", "--dataset", "owner/unreachable"],
    ]
    with dataset_hub({"owner/sounds": repository, "owner/files": audio_folder}, ("owner/secret",)) as hub:
        environment = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input="".join(json.dumps(command) + "\n" for command in commands),
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
    tagged, files, *refused, unreachable = map(json.loads, done.stdout.splitlines())
    local = ced("tag", "--dataset", repository, "--split", "test", "-f", "jsonl", code=1)
    assert (
        tagged[:3] == [1, local.stdout, local.stderr.replace(str(repository), "owner/sounds")]
        or tagged[1] == local.stdout
    )
    assert files[0] == 0 and len(records(files[1])) == 4 and "/snapshots/" not in files[1]
    assert not [file for file in tmp_path.rglob("*.parquet")]  # not stored
    assert len([file for file in tmp_path.rglob("*.flac")]) == 4  # only those of the given split
    reasons = ["access is restricted", "does not exist or is private", "Revision 'v9' doesn't exist"]
    for (code, _, stderr, _), message in zip(refused, reasons, strict=True):
        assert code == 2 and message in stderr and stderr.count("\n") == 1
    assert unreachable[0] == 1 and "the Hugging Face Hub cannot be reached" in unreachable[2]
    assert len([path for _, path, _ in hub.requests if "unreachable" in path]) == 1  # without repeated attempts
