# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
r"""Events as Rich Transcription Time Marked, whose fields are separated by spaces: a space in a field is `\x20`."""

from collections.abc import Iterable, Mapping
from typing import BinaryIO

from ..records import Record
from .fields import SPACE, label_field, name_field, recordings, seconds


def write(records: Iterable[Record], stream: BinaryIO, made_by: Mapping[str, str]) -> None:
    for record in recordings(records):
        name = name_field(record["file"], SPACE)
        for event in record["events"]:
            onset_s, label = event["onset_s"], label_field(event["label"], SPACE)
            times = f"{seconds(onset_s)} {seconds(event['offset_s'] - onset_s)}"
            line = f"SPEAKER {name} 1 {times} <NA> <NA> {label} {event['peak']:.7g} <NA>\n"
            stream.write(line.encode(errors="backslashreplace"))
        stream.flush()
