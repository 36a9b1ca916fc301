# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Labelled clips: folders and tables → the paths of audio files and their targets. No audio is read here.

What can be read, on local disks:

- a folder as the `audiofolder` of 🤗 datasets: a folder of clips per class, or a `metadata.csv`, `metadata.jsonl` or
  `metadata.parquet` that names the files. Splits (train, validation, test) are found by the names of folders or files
  as datasets finds them;
- a table: CSV, TSV, JSON, JSON lines or Parquet with a column of paths (`file_name`, `path`, …), relative to the
  table's folder or to `audio_root`. A column `split`, if there is one, tells the splits.

A table's labels (and a metadata file's) are

- in one column (`label`, `labels`, …). A text is one class, or several with `;` between them. Commas do not separate,
  since AudioSet's names have them ("Chuckle, chortle"), with two exceptions: machine ids ("/m/09x0r,/m/04rlf"), and
  texts that are no class of the given `classes` but several of them with commas between. In JSON and Parquet the
  column may hold lists instead. Machine ids of AudioSet stand for its classes;
- or, where there is no such column, in one column per class with values in [0, 1]: 0 and 1, or soft targets.
"""

from .clips import ALL as ALL
from .clips import INSTALL_TRAIN as INSTALL_TRAIN
from .clips import MULTI_LABEL as MULTI_LABEL
from .clips import SINGLE_LABEL as SINGLE_LABEL
from .clips import LabelledClips as LabelledClips
from .clips import Skipped as Skipped
from .matching import UnknownLabelsError as UnknownLabelsError
from .matching import match_clips as match_clips
from .read import find_splits as find_splits
from .read import read_labelled as read_labelled
