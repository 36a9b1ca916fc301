# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Results as pandas tables, and read back from files of `ced tag`."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from typer.testing import CliRunner

from ced_model import AudioTagger, Event, Tag, read_events, read_timelines
from ced_model.cli.app import app
from ced_model.packages import MissingPackageError

MODEL = Path(__file__).parent / "golden" / "micro_hub"


def test_tags_timelines_and_events_become_tables_of_pandas(long_clip):
    tagger = AudioTagger(MODEL)
    (result,) = tagger.tag([long_clip], top_k=3)
    table = result.to_pandas()
    assert list(table.columns) == ["file", "label", "score", "index"]
    assert table["label"].tolist() == [tag.label for tag in result.tags] and set(table["file"]) == {result.name}
    timeline = tagger.timeline(long_clip)
    table = timeline.to_pandas()
    assert list(table.columns) == ["start_s", "end_s", *tagger.labels]
    np.testing.assert_array_equal(table[tagger.labels].to_numpy(), timeline.scores)
    np.testing.assert_array_equal(table["end_s"], timeline.end_s)
    assert pandas.DataFrame(timeline.events(0.1)).columns.tolist() == list(Event._fields)
    assert pandas.DataFrame(result.tags).columns.tolist() == list(Tag._fields)


def test_without_pandas_the_error_has_the_install_command(long_clip, monkeypatch):
    (result,) = AudioTagger(MODEL).tag([long_clip])
    monkeypatch.setattr("ced_model.packages.missing", list)
    with pytest.raises(MissingPackageError, match="to_pandas requires pandas: pip install pandas"):
        result.to_pandas()


@pytest.mark.parametrize("extension", ["csv", "json", "jsonl", "parquet"])
def test_events_and_timelines_are_read_back(long_clip, tmp_path, extension):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    for kind in ("--events", "--timeline"):
        output = tmp_path / f"{kind}.{extension}"
        arguments = ["tag", long_clip, tmp_path / "broken.wav", "-m", MODEL, kind, "-o", output]
        assert CliRunner().invoke(app, [*map(str, arguments)]).exit_code == 1
    tagger = AudioTagger(MODEL)
    timeline = tagger.timeline(long_clip)
    ((name, events),) = read_events(tmp_path / f"--events.{extension}").items()
    assert name == str(long_clip)
    expected = timeline.events()
    assert [event[:3] for event in events] == [
        (pytest.approx(event.onset_s), pytest.approx(event.offset_s), event.label) for event in expected
    ]
    assert [event.peak for event in events] == pytest.approx([event.peak for event in expected], abs=1e-5)
    found = read_timelines(tmp_path / f"--timeline.{extension}")[str(long_clip)]
    assert found.labels == tagger.labels and found.duration_s == pytest.approx(timeline.duration_s)
    np.testing.assert_allclose(found.scores, timeline.scores, atol=1e-5)
    np.testing.assert_allclose(found.segments(), timeline.segments(), atol=1e-5)
    with pytest.raises(ValueError, match="is not an unchanged file of `ced tag --timeline`"):
        read_timelines(tmp_path / f"--events.{extension}")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("no")
    with pytest.raises(ValueError, match="is not an unchanged file of `ced tag --events`"):
        read_events(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="expected a name that ends in .csv, .json, .jsonl, .parquet"):
        read_events(tmp_path / "a.txt")
