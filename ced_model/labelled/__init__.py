# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Labelled clips: folders and tables → the paths of audio files and their targets. No audio is read here.

Supported data, on local disks:

- a folder in the layout of `audiofolder` of 🤗 datasets: one folder of clips per class, or a `metadata.csv`,
  `metadata.jsonl` or `metadata.parquet` that lists the files. Splits (train, validation, test) are derived from the
  names of folders and files, as in datasets;
- a table: CSV, TSV, JSON, JSON lines or Parquet with a column of paths (`file_name`, `path`, …), relative to the
  table's folder or to `audio_root`. An optional column `split` has the splits.

The labels of a table or metadata file are either

- in one column (`label`, `labels`, …): a class, or several separated by `;`. Commas do not separate, since names of
  AudioSet have commas ("Chuckle, chortle"), with two exceptions: machine ids ("/m/09x0r,/m/04rlf"), and a text that is
  not one of the given `classes` but several of them separated by commas. In JSON and Parquet, cells may be lists.
  Machine ids of AudioSet are replaced by the names of their classes;
- or in one column per class, with values in [0, 1]: 0 and 1, or soft targets.
"""

from .clips import ALL as ALL
from .clips import MULTI_LABEL as MULTI_LABEL
from .clips import SINGLE_LABEL as SINGLE_LABEL
from .clips import LabelledClips as LabelledClips
from .clips import Skipped as Skipped
from .matching import UnknownLabelsError as UnknownLabelsError
from .matching import match_clips as match_clips
from .read import find_splits as find_splits
from .read import read_labelled as read_labelled
