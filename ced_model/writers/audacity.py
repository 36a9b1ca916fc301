# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Events as a label track of Audacity: onset, offset and label, separated by tabs, of one recording."""

from collections.abc import Iterable, Mapping
from typing import BinaryIO

from ..records import Record
from .fields import OPENING_QUOTE, label_field, recordings, seconds, tabbed


def write(records: Iterable[Record], stream: BinaryIO, made_by: Mapping[str, str]) -> None:
    for record in recordings(records):
        for event in record["events"]:
            label = label_field(event["label"], OPENING_QUOTE)
            stream.write(tabbed(seconds(event["onset_s"]), seconds(event["offset_s"]), label))
        stream.flush()
