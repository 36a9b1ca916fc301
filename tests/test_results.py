# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Results as tables of pandas."""

from pathlib import Path

import numpy as np
import pandas
import pytest

from ced_model import AudioTagger, Event, Tag
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


def test_without_pandas_the_line_says_how_to_install_it(long_clip, monkeypatch):
    (result,) = AudioTagger(MODEL).tag([long_clip])
    monkeypatch.setattr("ced_model.packages.missing", list)
    with pytest.raises(MissingPackageError, match="to_pandas requires pandas: pip install pandas"):
        result.to_pandas()
