# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders and tables of labelled clips are read correctly, and clips that are left out are reported."""

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from ced_model import AUDIOSET_LABELS
from ced_model.audioset import AUDIOSET_MIDS
from ced_model.classes import vocabulary_of
from ced_model.labelled import (
    MULTI_LABEL,
    SINGLE_LABEL,
    LabelledClips,
    find_splits,
    read_labelled,
)

Table = Callable[..., Path]


def touch(folder: Path, *names: str) -> Path:
    """Makes a folder with these files, which are empty, since no audio is read."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Writes a table next to the clips a.wav to e.wav: `table(text, name="clips.csv")`."""

    def write(text: str, name: str = "clips.csv") -> Path:
        touch(tmp_path, *[f"{letter}.wav" for letter in "abcde"])
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def names_of(clips: LabelledClips) -> list[str]:
    return [Path(path).name for path in clips.paths]


def labels_of(clips: LabelledClips) -> dict[str, dict[str, float]]:
    """Labels and values by the file name of each clip."""
    return {
        Path(path).name: {label: float(value) for label, value in zip(clips.labels, row, strict=True) if value}
        for path, row in zip(clips.paths, clips.targets, strict=True)
    }


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text and text[-1] in ".?", text
    return text


# Folders


def test_labels_are_read_from_class_folders(tmp_path: Path) -> None:
    clips = read_labelled(touch(tmp_path, "dog/a.wav", "dog/b.MP3", "cat/a.m4a", "cat/notes.txt", "cat/.hidden.wav"))
    assert clips.paths == [str(tmp_path / name) for name in ("cat/a.m4a", "dog/a.wav", "dog/b.MP3")]
    assert clips.labels == ["cat", "dog"] and clips.problem_type == SINGLE_LABEL
    assert clips.targets.dtype == np.float32 and clips.targets.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert len(clips) == 3 and clips.skipped == [] and clips.notes == []


def test_splits_of_a_folder_are_those_that_datasets_finds(tmp_path: Path) -> None:
    names = ("train/dog/1.wav", "train/cat/2.wav", "valid/dog/3.wav", "test/cat/4.wav", "test/dog/5.wav")
    touch(tmp_path, *names)
    assert find_splits(tmp_path) == ["train", "validation", "test"]
    # As texts, since datasets requires torchcodec for audio even without decoding.
    columns = datasets.Features({"audio": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])})
    reference = datasets.load_dataset("audiofolder", data_dir=str(tmp_path), features=columns, streaming=True)
    assert set(find_splits(tmp_path)) == reference.keys()
    for split, rows in reference.items():
        expected = {row["audio"]: ["cat", "dog"][row["label"]] for row in rows}
        clips = read_labelled(tmp_path, split=split)
        found = {path: clips.labels[row.argmax()] for path, row in zip(clips.paths, clips.targets, strict=True)}
        assert found == expected and len(found) > 0
    assert names_of(read_labelled(tmp_path, split="all")) == ["4.wav", "5.wav", "2.wav", "1.wav", "3.wav"]
    with pytest.raises(ValueError, match="choose a split; expected 'train', 'validation', 'test', or 'all'") as error:
        read_labelled(tmp_path)
    one_line(error)
    with pytest.raises(ValueError, match="no split 'dev'"):
        read_labelled(tmp_path, split="dev")


def test_files_outside_of_the_splits_are_reported(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/1.wav", "train/cat/2.wav", "more/dog/3.wav", "more/dog/4.wav")
    clips = read_labelled(tmp_path)
    assert names_of(clips) == ["2.wav", "1.wav"]
    assert clips.notes == [
        f"2 audio files, such as {tmp_path}/more/dog/3.wav, in none of the splits 'train'; 'all' has them"
    ]
    assert len(read_labelled(tmp_path, split="all")) == 4


def test_labels_are_read_from_a_metadata_file(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.wav", "x/b.wav", "y/c.wav")
    (tmp_path / "metadata.csv").write_text('file_name,label\nx/a.wav,Dog\nx/b.wav,"Chuckle, chortle"\n')
    clips = read_labelled(tmp_path)
    assert labels_of(clips) == {"a.wav": {"Dog": 1}, "b.wav": {"Chuckle, chortle": 1}}
    assert clips.notes == [f"1 audio file, such as {tmp_path}/y/c.wav, not listed in the metadata"]


def test_a_metadata_file_in_each_split(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.wav", "test/b.wav")
    for split, name in (("train", "a"), ("test", "b")):
        line = json.dumps({"file_name": f"{name}.wav", "labels": ["Dog", name]})
        (tmp_path / split / "metadata.jsonl").write_text(line + "\n")
    assert labels_of(read_labelled(tmp_path, split="test")) == {"b.wav": {"Dog": 1, "b": 1}}
    assert labels_of(read_labelled(tmp_path, split="all")) == {"a.wav": {"Dog": 1, "a": 1}, "b.wav": {"Dog": 1, "b": 1}}


def test_a_metadata_file_above_the_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.wav", "test/b.wav")
    text = "file_name,label\ntrain/a.wav,Dog\ntest/b.wav,Cat\ntest/missing.wav,Cat\n"
    (tmp_path / "metadata.csv").write_text(text)
    clips = read_labelled(tmp_path, split="test")
    assert names_of(clips) == ["b.wav"]
    assert [(Path(path).name, reason) for path, reason in clips.skipped] == [("missing.wav", "there is no such file")]


@pytest.mark.parametrize("name", ["[a]*?", "with spaces", "ünï"])
def test_names_with_special_characters(tmp_path: Path, name: str) -> None:
    folder = touch(tmp_path / name, "dog/a.wav", "cat/[b].wav")
    assert labels_of(read_labelled(folder)) == {"[b].wav": {"cat": 1}, "a.wav": {"dog": 1}}
    (folder / f"{name}.jsonl").write_text('{"path": "cat/[b].wav", "label": "x"}\n')
    assert labels_of(read_labelled(folder / f"{name}.jsonl")) == {"[b].wav": {"x": 1}}


def test_a_folder_by_a_relative_path_or_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "data", "dog/a.wav", "cat/b.wav")
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "link", "data/"):
        assert read_labelled(folder).paths == [f"{folder.rstrip('/')}/{name}" for name in ("cat/b.wav", "dog/a.wav")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "this folder has no files"),
        (["notes.txt"], "this folder has no audio files"),
        (["a.wav", "b.wav"], "a.wav is not in a class folder, and there is no metadata.csv"),
        (["dog/a.wav", "cat/sub/b.wav"], "must all be equally deep, but there are .*dog/a.wav and .*cat/sub/b.wav"),
        (["audio/a.wav", "meta/x.csv"], "all clips are in one folder, 'audio'.*such as .*meta/x.csv"),
    ],
)
def test_a_folder_without_labels_is_refused_in_one_line(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_labelled(touch(tmp_path, *files))
    one_line(error)


# Tables


@pytest.mark.parametrize("path_column", ["file_name", "path", "file", "audio", "FileName"])
@pytest.mark.parametrize("label_column", ["label", "labels", "category"])
def test_the_usual_columns_are_found(table: Table, path_column: str, label_column: str) -> None:
    clips = read_labelled(table(f"\ufeffid,{path_column},{label_column}\n1,a.wav,Dog\n2,b.wav,Cat\n"))
    assert labels_of(clips) == {"a.wav": {"Dog": 1}, "b.wav": {"Cat": 1}} and clips.problem_type == SINGLE_LABEL


def test_other_columns_are_chosen_by_name(table: Table) -> None:
    path = table("path,where,label,what\nx,a.wav,1,Dog\ny,b.wav,2,Cat\n")
    clips = read_labelled(path, path_column="where", label_column="what")
    assert labels_of(clips) == {"a.wav": {"Dog": 1}, "b.wav": {"Cat": 1}}
    with pytest.raises(ValueError, match="there is no column 'nix'; it has 'path', 'where', 'label', 'what'") as error:
        read_labelled(path, label_column="nix")
    one_line(error)


def test_class_names_that_look_like_missing_values_or_numbers_stay_names(table: Table) -> None:
    clips = read_labelled(table("path,label\na.wav,None\nb.wav,NA\nc.wav,007\nd.wav,1.0\n"))
    assert labels_of(clips) == {"a.wav": {"None": 1}, "b.wav": {"NA": 1}, "c.wav": {"007": 1}, "d.wav": {"1.0": 1}}


def test_semicolons_separate_and_commas_do_not(table: Table) -> None:
    clips = read_labelled(table('path,labels\na.wav,"Chuckle, chortle;Dog"\nb.wav,"Dog, Cat"\nc.wav,;Dog ;\n'))
    assert labels_of(clips) == {
        "a.wav": {"Chuckle, chortle": 1, "Dog": 1},
        "b.wav": {"Dog, Cat": 1},
        "c.wav": {"Dog": 1},
    }
    assert clips.problem_type == MULTI_LABEL


def test_any_separator(table: Table) -> None:
    clips = read_labelled(table('path,labels\na.wav,"Dog,Cat"\nb.wav,Dog;Cat\n'), separator=",")
    assert labels_of(clips) == {"a.wav": {"Dog": 1, "Cat": 1}, "b.wav": {"Dog;Cat": 1}}


def test_commas_separate_known_classes(table: Table) -> None:
    text = 'path,labels\na.wav,"Dog,Chuckle, chortle,Speech"\nb.wav,"Male speech, man speaking"\nc.wav,"Dog,Bird;Cat"\n'
    clips = read_labelled(table(text), model_classes=AUDIOSET_LABELS)
    assert labels_of(clips) == {
        "a.wav": {"Speech": 1, "Chuckle, chortle": 1, "Dog": 1},
        "b.wav": {"Male speech, man speaking": 1},
        "c.wav": {"Dog": 1, "Cat": 1, "Bird": 1},
    }


def test_every_audioset_class_is_found_by_name_and_machine_id(table: Table) -> None:
    spellings = [[name.upper() for name in AUDIOSET_LABELS], [name.replace(" ", "_") for name in AUDIOSET_LABELS]]
    for names in (AUDIOSET_LABELS, AUDIOSET_MIDS, *spellings):
        assert [*map(vocabulary_of(AUDIOSET_LABELS).find, names)] == list(range(len(AUDIOSET_LABELS)))
    for separator in (";", ","):
        clips = read_labelled(
            table(f'path,labels\na.wav,"{separator.join(AUDIOSET_MIDS)}"\nb.wav,{AUDIOSET_MIDS[3]}\n')
        )
        assert clips.labels == sorted(AUDIOSET_LABELS) and clips.targets.sum(axis=1).tolist() == [527, 1]
    clips = read_labelled(table(f'path,labels\na.wav,"{",".join(AUDIOSET_LABELS)}"\n'), model_classes=AUDIOSET_LABELS)
    assert clips.labels == list(AUDIOSET_LABELS) and clips.targets.all()


def test_lists_in_json_and_parquet(table: Table) -> None:
    rows = [("a.wav", ["Chuckle, chortle", "/m/0bt9lr"]), ("b.wav", ["Dog"]), ("c.wav", [])]
    records = [{"path": path, "labels": labels} for path, labels in rows]
    expected = {"a.wav": {"Chuckle, chortle": 1, "Dog": 1}, "b.wav": {"Dog": 1}, "c.wav": {}}
    lines = "".join(json.dumps(record) + "\n" for record in records)
    parquet = table("", "clips.parquet")
    datasets.Dataset.from_list(records).to_parquet(parquet)
    for path in (table(lines, "clips.jsonl"), table(json.dumps(records), "clips.json"), parquet):
        clips = read_labelled(path)
        assert labels_of(clips) == expected and clips.problem_type == MULTI_LABEL


def test_texts_and_lists_mixed_in_json(table: Table) -> None:
    text = '{"path": "a.wav", "labels": ["Dog"]}\n\n{"path": "b.wav", "labels": "Cat;Dog"}\n{"path": "c.wav"}\n'
    expected = {"a.wav": {"Dog": 1}, "b.wav": {"Cat": 1, "Dog": 1}, "c.wav": {}}
    assert labels_of(read_labelled(table(text, "clips.jsonl"))) == expected


def test_class_labels_of_datasets(table: Table) -> None:
    names = datasets.ClassLabel(names=["dog", "cat"])
    path = table("", "clips.parquet")
    for feature, values in ((names, [1, 0]), (datasets.List(names), [[1], [0]])):
        features = datasets.Features({"path": datasets.Value("string"), "label": feature})
        datasets.Dataset.from_dict({"path": ["a.wav", "b.wav"], "label": values}, features).to_parquet(path)
        assert labels_of(read_labelled(path)) == {"a.wav": {"cat": 1}, "b.wav": {"dog": 1}}


def test_a_column_for_each_class(table: Table) -> None:
    clips = read_labelled(table("path,Dog,Cat,Cow,fold,text\na.wav,1,0.25,0,3,x\nb.wav,0,0,0,1,y\n"))
    assert clips.labels == ["Cat", "Cow", "Dog"] and clips.problem_type == MULTI_LABEL and clips.has_soft_targets
    assert clips.targets.tolist() == [[0.25, 0, 1], [0, 0, 0]]
    assert len(clips.notes) == 1 and "'fold', 'text'" in clips.notes[0]
    one_hot = read_labelled(table("path\tDog\tCat\na.wav\t1\t0\nb.wav\t0\t1\n", "clips.tsv"))
    assert one_hot.problem_type == SINGLE_LABEL and not one_hot.has_soft_targets
    yes_or_no = read_labelled(table("path,Dog\na.wav,1\nb.wav,1\n"))
    assert yes_or_no.problem_type == MULTI_LABEL


def test_the_nameless_index_of_pandas_is_no_class(table: Table) -> None:
    clips = read_labelled(table(",path,Dog,Cat,\n0,a.wav,1,0,\n1,b.wav,0,1,\n"))
    assert labels_of(clips) == {"a.wav": {"Dog": 1}, "b.wav": {"Cat": 1}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", "path;label\na.wav;Dog\nb.wav;Cat\n"),
        ("x.csv", "path\tlabel\na.wav\tDog\nb.wav\tCat\n"),
        ("x.tsv", "path,label\na.wav,Dog\nb.wav,Cat\n"),
        ("x.csv", 'path, label\na.wav, "Dog"\n"b.wav", "Cat"\n'),
    ],
)
def test_tables_may_have_other_separators_and_spaces_after_them(table: Table, name: str, text: str) -> None:
    assert labels_of(read_labelled(table(text, name))) == {"a.wav": {"Dog": 1}, "b.wav": {"Cat": 1}}


@pytest.mark.parametrize("name", ["x.csv", "x.json"])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_tables_in_other_encodings_are_refused(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes("path,label\na.wav,Bär\n".encode(encoding))
    with pytest.raises(ValueError, match=rf"{name}: cannot be read as \w+: expected UTF-8 text"):
        read_labelled(tmp_path / name)


def test_splits_are_read_from_a_column(table: Table) -> None:
    path = table("path,label,split\na.wav,Dog,train\nb.wav,Cat,val\nc.wav,Dog,val\n")
    assert find_splits(path) == ["train", "val"]
    assert names_of(read_labelled(path, split="val")) == ["b.wav", "c.wav"]
    assert len(read_labelled(path, split="all")) == 3
    with pytest.raises(ValueError, match="choose a split; expected 'train', 'val'"):
        read_labelled(path)
    assert find_splits(plain := table("path,label\na.wav,Dog\nb.wav,Cat\n", "plain.csv")) == []
    with pytest.raises(ValueError, match="no split 'test', since there is no column 'split'"):
        read_labelled(plain, split="test")


def test_paths_start_from_the_table_or_the_root(table: Table, tmp_path: Path) -> None:
    path = table(f"path,label\na.wav,Dog\n{tmp_path}/e.wav,Cat\n")
    touch(tmp_path / "root", "a.wav")
    assert read_labelled(path).paths == [f"{tmp_path}/a.wav", f"{tmp_path}/e.wav"]
    assert read_labelled(path, audio_root=tmp_path / "root").paths == [f"{tmp_path}/root/a.wav", f"{tmp_path}/e.wav"]
    with pytest.raises(ValueError, match="nix: there is no such file or folder"):
        read_labelled(path, audio_root=tmp_path / "nix")


# Classes


def test_classes_are_those_of_the_model_if_it_has_them_all(table: Table) -> None:
    path = table("path,label\na.wav,dog\nb.wav,Cow\n")
    assert read_labelled(path, model_classes=["Dog", "Cow", "Cat"]).labels == ["Dog", "Cow"]
    assert read_labelled(path, model_classes=["Dog", "Cat"]).labels == ["Cow", "dog"]
    assert read_labelled(path).labels == ["Cow", "dog"]


def test_given_classes_stay_in_their_order(table: Table) -> None:
    path = table("path,label\na.wav,dog\nb.wav,Cow\n")
    clips = read_labelled(path, classes=["Fish", "Dog", "Cow"])
    assert clips.labels == ["Fish", "Dog", "Cow"] and clips.targets.tolist() == [[0, 1, 0], [0, 0, 1]]
    with pytest.raises(
        ValueError, match=r"clips.csv: 'Cow' \(did you mean 'Crow'\?\) is not among the 2 class"
    ) as error:
        read_labelled(path, classes=["Dog", "Crow"])
    one_line(error)
    with pytest.raises(ValueError, match="not both"):
        read_labelled(path, classes=["Dog"], model_classes=["Dog"])


def test_names_that_differ_only_in_case_are_different_classes() -> None:
    classes = vocabulary_of(["Dog", "dog"])
    assert [classes.find(name) for name in ("dog", "Dog", "DOG")] == [1, 0, None]


def test_composed_and_decomposed_accents_are_the_same_class(table: Table) -> None:
    path = table("path,label\na.wav,Ma\u0308use\nb.wav,M\u00e4use\n")
    assert read_labelled(path).labels == ["M\u00e4use"]
    assert read_labelled(path, classes=["Ma\u0308use"]).targets.tolist() == [[1], [1]]
    columns = table("path,Ma\u0308use,Hund\na.wav,1,0\nb.wav,0,1\n", "columns.csv")
    assert read_labelled(columns, classes=["Hund", "M\u00e4use"]).targets.tolist() == [[0, 1], [1, 0]]


def test_the_problem_type_can_be_forced(table: Table) -> None:
    single = table("path,label\na.wav,Dog\nb.wav,Cat\nc.wav,\n")
    assert read_labelled(single).skipped == [(str(single.parent / "c.wav"), "it has no label")]
    forced = read_labelled(single, problem_type=MULTI_LABEL)
    assert forced.problem_type == MULTI_LABEL and forced.targets.sum(axis=1).tolist() == [1, 1, 0]
    several = table("path,label\na.wav,Dog;Cat\nb.wav,Cat\n")
    with pytest.raises(ValueError, match="one class per clip, but .*a.wav has 'Cat', 'Dog'") as error:
        read_labelled(several, problem_type=SINGLE_LABEL)
    one_line(error)
    with pytest.raises(ValueError, match="these are soft"):
        read_labelled(table("path,Dog,Cat\na.wav,0.5,0\n"), problem_type=SINGLE_LABEL)
    with pytest.raises(ValueError, match="`problem_type='both'`: expected"):
        read_labelled(single, problem_type="both")


# Clips that are left out


def test_clips_that_cannot_be_used_are_listed_with_the_reason(table: Table, tmp_path: Path) -> None:
    text = (
        "path,label\na.wav,Dog\nmissing.wav,Cat\nhttps://x.org/y.wav,Cat\n,Cat\nb.wav,Cat\n./b.wav,Cat\n"
        "c.wav,Dog\nx/../c.wav,Cat\nd.wav,\n"
    )
    (tmp_path / "x").mkdir()
    path = table(text)
    clips = read_labelled(path)
    assert labels_of(clips) == {"a.wav": {"Dog": 1}, "b.wav": {"Cat": 1}}
    assert {item.path.removeprefix(f"{tmp_path}/"): item.reason for item in clips.skipped} == {
        "missing.wav": "there is no such file",
        "https://x.org/y.wav": "URLs are not fetched: download it first",
        "clips.csv, row 4": "it has no path",
        "c.wav": "listed more than once, with different labels",
        "d.wav": "it has no label",
    }
    assert clips.notes == [f"1 file listed more than once, such as {tmp_path}/b.wav: each is used once"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", "cannot be read as csv"),
        ("x.csv", "path,label\n", "the table has no rows"),
        ("x.csv", "a,label\n1,2\n", "no column of paths .* it has 'a', 'label'"),
        ("x.csv", "path,speaker\na.wav,Ann\n", "no column of labels .* it has 'path', 'speaker'"),
        ("x.csv", "path,label\na.wav,\nb.wav, \n", "no clip has a label"),
        ("x.csv", "path,Dog,Cat\na.wav,0,0\n", "no clip has any of its 2 classes"),
        ("x.csv", "path,label\na.wav,Dog,Cat\n", "rows have more cells than the header"),
        ("x.csv", 'path,label\na.wav,"Dog\n', "cannot be read as csv"),
        ("x.csv", "path,label,label\na.wav,Dog,Cat\n", "there are several columns 'label'; keep one of them"),
        ("x.csv", "path,Dog,Dog\na.wav,1,0\n", "there are several columns 'Dog'; keep one of them"),
        ("x.csv", "path,path,label\na.wav,b.wav,Dog\n", "there are several columns 'path'"),
        (
            "x.csv",
            "path,label\nnix.wav,Dog\n",
            "no usable clips.*nix.wav: there is no such file; .* with `audio_root=…`",
        ),
        ("x.jsonl", '\n{"path": "a.wav", "label": \n', "cannot be read as json: line 2: "),
        ("x.jsonl", '{"path": "a.wav", "labels": []}\n', "no clip has a label"),
        ("x.jsonl", '["a.wav", "Dog"]\n', "expected objects such as"),
        ("x.json", '{"a.wav": "Dog"}', "expected objects such as"),
        ("x.json", "[]", "the table has no rows"),
        ("x.json", '[{"path": "a.wav", "label": "Dog", "label": "Cat"}]', "'label' appears twice"),
        ("x.jsonl", '{"path": "a.wav", "label": "Dog", "label": "Cat"}', "line 1: 'label' appears twice"),
        ("x.json", '[{"path": "a.wav", "label": {"name": "Dog"}}]', "row 1: a label must be a name or a list"),
        ("x.json", '[{"path": "a.wav", "label": [["Dog"]]}]', "row 1: a label must be a name or a list"),
        ("x.parquet", "text", "cannot be read as parquet"),
        ("x.txt", "a.wav", "not a table of clips; give a folder, or a file that ends in .csv, .tsv"),
    ],
)
def test_an_invalid_table_is_refused_in_one_line(
    table: Table, name: str, text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_labelled(table(text, name))
    assert name in one_line(error)
    assert capfd.readouterr().err == ""  # not logged again by datasets


def test_audio_within_a_table_is_refused(table: Table) -> None:
    path = table("", "clips.parquet")
    rows = {"audio": [{"bytes": b"RIFF", "path": "a.wav"}], "label": ["Dog"]}
    datasets.Dataset.from_dict(rows).to_parquet(path)
    with pytest.raises(ValueError, match="has the audio itself"):
        read_labelled(path)
    datasets.Dataset.from_dict(rows | {"audio": [{"bytes": None, "path": "a.wav"}]}).to_parquet(path)
    assert labels_of(read_labelled(path)) == {"a.wav": {"Dog": 1}}


@pytest.mark.parametrize("data", ["nix", "https://huggingface.co/datasets/x", "hf://datasets/x"])
def test_missing_files_and_folders_are_refused(data: str) -> None:
    for read in (read_labelled, find_splits):
        with pytest.raises(ValueError, match="no such file or folder|local files only") as error:
            read(data)
        one_line(error)


def test_options_of_tables_are_refused_for_folders(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.wav", "cat/b.wav")
    with pytest.raises(ValueError, match="are for tables, not for folders"):
        read_labelled(tmp_path, label_column="label")


def test_select_keeps_the_classes(table: Table) -> None:
    clips = read_labelled(table("path,label\na.wav,Dog\nb.wav,Cat\nc.wav,Cow\n"))
    part = clips.select([2, 0])
    assert labels_of(part) == {"c.wav": {"Cow": 1}, "a.wav": {"Dog": 1}} and part.labels == clips.labels


def test_reading_leaves_no_files(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = table('{"path": "a.wav", "label": "Dog"}\n', "clips.jsonl")
    folder = touch(tmp_path / "data", "dog/a.wav", "cat/b.wav")
    before = sorted(tmp_path.rglob("*"))
    for data, splits, number in ((path, [], 1), (folder, ["train"], 2)):
        assert (find_splits(data), len(read_labelled(data))) == (splits, number)
    assert sorted(tmp_path.rglob("*")) == before


def test_tables_require_no_extra_and_the_error_for_folders_has_the_command_to_install_it(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = table("path,label\na.wav,Dog\nb.wav,Cat\n")
    for package in ("datasets", "pandas", "torch", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    assert len(read_labelled(path)) == 2
    with pytest.raises(ImportError, match="requires datasets: pip install datasets$"):
        read_labelled(path.parent)
