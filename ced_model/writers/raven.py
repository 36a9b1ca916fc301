# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Events as a selection table of Raven.

Begin and End Time count through the recordings one after another, as Raven does where several are opened together; File
Offset is the onset in the recording. An event covers all frequencies of its recording.
"""

from collections.abc import Iterable, Mapping
from typing import BinaryIO

from ..records import Record
from .fields import OPENING_QUOTE, label_field, local_path, name_field, recordings, seconds, tabbed

COLUMNS = (
    "Selection",
    "View",
    "Channel",
    "Begin Time (s)",
    "End Time (s)",
    "Low Freq (Hz)",
    "High Freq (Hz)",
    "Annotation",
    "Score",
    "Begin Path",
    "File Offset (s)",
    "Recorded At",
    "Model",
)


def write(records: Iterable[Record], stream: BinaryIO, made_by: Mapping[str, str]) -> None:
    stream.write(tabbed(*COLUMNS))
    stream.flush()
    number, start_s = 0, 0.0
    model = name_field(made_by.get("model", ""), OPENING_QUOTE)
    for record in recordings(records):
        path = name_field(local_path(record["file"]) or record["file"])
        for event in record["events"]:
            number += 1
            stream.write(
                tabbed(
                    str(number),
                    "Spectrogram 1",
                    "1",
                    seconds(start_s + event["onset_s"]),
                    seconds(start_s + event["offset_s"]),
                    "0.0",
                    f"{record.get('sampling_rate', 16000) / 2:.1f}",
                    label_field(event["label"], OPENING_QUOTE),
                    f"{event['peak']:.7g}",
                    path,
                    seconds(event["onset_s"]),
                    name_field(record.get("recorded_at") or ""),
                    model,
                )
            )
        start_s += record["duration_s"]
        stream.flush()
