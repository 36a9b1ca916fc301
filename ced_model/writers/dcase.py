# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Events as tab-separated values of the DCASE challenges: `filename`, `onset`, `offset` and `event_label`."""

from collections.abc import Iterable, Mapping
from typing import BinaryIO

from ..records import Record
from .fields import OPENING_QUOTE, label_field, name_field, recordings, seconds, tabbed


def write(records: Iterable[Record], stream: BinaryIO, made_by: Mapping[str, str]) -> None:
    stream.write(tabbed("filename", "onset", "offset", "event_label"))
    stream.flush()
    for record in recordings(records):
        name = name_field(record["file"], OPENING_QUOTE)
        for event in record["events"]:
            label = label_field(event["label"], OPENING_QUOTE)
            stream.write(tabbed(name, seconds(event["onset_s"]), seconds(event["offset_s"]), label))
        stream.flush()
