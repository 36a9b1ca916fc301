# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
r"""
Formats with one line per event:

- A label track of Audacity: onset, offset and label of one recording, separated by tabs.
- The tab-separated values of the DCASE challenges: `filename`, `onset`, `offset` and `event_label`.
- Rich Transcription Time Marked (RTTM), whose fields are separated by spaces: a space in a field is `\x20`.
- A selection table of Raven. Begin Time and End Time count through all recordings in sequence, as Raven does if they
  are opened together; File Offset is the onset in the recording. Events cover all frequencies.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from ..records import Record
from .fields import OPENING_QUOTE, SPACE, label_field, local_path, name_field, recordings, seconds

RAVEN_COLUMNS = (
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
Fields = Callable[[Record, dict[str, Any], int, float, str], tuple[str, ...]]


def _audacity(record: Record, event: dict[str, Any], number: int, start_s: float, model: str) -> tuple[str, ...]:
    return seconds(event["onset_s"]), seconds(event["offset_s"]), label_field(event["label"], OPENING_QUOTE)


def _dcase(record: Record, event: dict[str, Any], number: int, start_s: float, model: str) -> tuple[str, ...]:
    return name_field(record["file"], OPENING_QUOTE), *_audacity(record, event, number, start_s, model)


def _rttm(record: Record, event: dict[str, Any], number: int, start_s: float, model: str) -> tuple[str, ...]:
    times = seconds(event["onset_s"]), seconds(event["offset_s"] - event["onset_s"])
    name, label = name_field(record["file"], SPACE), label_field(event["label"], SPACE)
    return "SPEAKER", name, "1", *times, "<NA>", "<NA>", label, f"{event['peak']:.7g}", "<NA>"


def _raven(record: Record, event: dict[str, Any], number: int, start_s: float, model: str) -> tuple[str, ...]:
    return (
        str(number),
        "Spectrogram 1",
        "1",
        seconds(start_s + event["onset_s"]),
        seconds(start_s + event["offset_s"]),
        "0.0",
        f"{record.get('sampling_rate', 16000) / 2:.1f}",
        label_field(event["label"], OPENING_QUOTE),
        f"{event['peak']:.7g}",
        name_field(local_path(record["file"]) or record["file"]),
        seconds(event["onset_s"]),
        name_field(record.get("recorded_at") or ""),
        model,
    )


# For each format: the header, the fields of an event and their separator.
FORMATS: dict[str, tuple[tuple[str, ...], Fields, str]] = {
    "audacity": ((), _audacity, "\t"),
    "dcase": (("filename", "onset", "offset", "event_label"), _dcase, "\t"),
    "rttm": ((), _rttm, " "),
    "raven": (RAVEN_COLUMNS, _raven, "\t"),
}


def write(records: Iterable[Record], stream: BinaryIO, format: str, made_by: Mapping[str, str]) -> None:
    header, fields, separator = FORMATS[format]
    if header:
        stream.write((separator.join(header) + "\n").encode())
        stream.flush()
    model = name_field(made_by.get("model", ""), OPENING_QUOTE)
    number, start_s = 0, 0.0
    for record in recordings(records):
        for event in record["events"]:
            number += 1
            line = separator.join(fields(record, event, number, start_s, model))
            stream.write(f"{line}\n".encode(errors="backslashreplace"))
        start_s += record["duration_s"]
        stream.flush()
