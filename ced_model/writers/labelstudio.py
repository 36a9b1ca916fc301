# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
Events as Label Studio tasks with predictions, and the labelling configuration for them.

Label Studio reads the audio from its local files, whose document root must be `/`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ..records import Record
from .fields import label_field, local_path, recordings
from .json import write_array


def write(records: Iterable[Record], stream: BinaryIO, made_by: Mapping[str, str]) -> None:
    write_array((_task(record, made_by.get("model", "")) for record in recordings(records)), stream)


def _task(record: Record, model: str) -> dict[str, Any]:
    name = record["file"]
    data = {"audio": _local_url(path) if (path := local_path(name)) else name, "file": name}
    data |= {"recorded_at": record["recorded_at"]} if record.get("recorded_at") else {}
    events = record["events"]
    prediction: dict[str, Any] = {"model_version": model or "ced"}
    if events:
        prediction["score"] = max(event["peak"] for event in events)
    prediction["result"] = [_region(number, event, record["duration_s"]) for number, event in enumerate(events, 1)]
    return {"data": data, "predictions": [prediction]}


def _local_url(path: str) -> str:
    """The URL of a local file in Label Studio. Bytes that are `\\xNN` in the record are percent-encoded."""
    escaped = quote(PurePath(path).as_posix().lstrip("/"), safe="/\\")
    url = re.sub(r"\\x([0-9a-f]{2})", lambda match: quote(bytes.fromhex(match[1])), escaped)
    return "/data/local-files/?d=" + url.replace("\\", "%5C")


def _region(number: int, event: dict[str, Any], duration_s: float) -> dict[str, Any]:
    labels = [label_field(event["label"])]
    return {
        "id": str(number),
        "from_name": "label",
        "to_name": "audio",
        "type": "labels",
        "original_length": duration_s,
        "value": {"start": event["onset_s"], "end": event["offset_s"], "channel": 0, "labels": labels},
        "score": event["peak"],
    }


def configuration(labels: Iterable[str]) -> bytes:
    """The XML of the labelling interface, with the classes for the annotator."""
    choices = "".join(f"    <Label value={quoteattr(label_field(label))}/>\n" for label in labels)
    lines = f'  <Labels name="label" toName="audio" choice="single">\n{choices}  </Labels>\n'
    return f'<View>\n{lines}  <Audio name="audio" value="$audio"/>\n</View>\n'.encode()
