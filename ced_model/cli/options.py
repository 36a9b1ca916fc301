# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, named after the library's keyword arguments."""

from typing import Annotated, Any

import typer

from .endings import flag
from .errors import CliError

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="DIR_OR_ID",
        help="A model folder or the id of a Hub repository, such as mispeech/ced-base; by default ced-nano, bundled.",
    ),
]
ListFile = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="FILE", help="A list of paths, one a line or separated by NUL, or Parquet; - for stdin."
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k", "-k", metavar="N", min=1, help="Tags at most; by default 5, or all with --threshold or --labels."
    ),
]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SCORE",
        help="Leave out lower scores; with --events, by default 0.5. CLASS=SCORE is for one class. May be given several"
        " times.",
    ),
]
ThresholdFile = Annotated[
    str | None,
    typer.Option(
        "--thresholds",
        metavar="FILE",
        help="Thresholds by class, and for events other settings: CSV or JSON, such as ced evaluate --per-class writes."
        " Other classes are left out, unless --threshold is given.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--labels",
        "--label",
        "-l",
        metavar="CLASS",
        help="Consider these classes only: names, indices or machine ids, with commas between them. Dog... is the group"
        " of Dog and all classes below it (ced labels dog).",
    ),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="CLASS", help="Leave out these classes and groups.")
]
LabelMap = Annotated[
    str | None,
    typer.Option("--label-map", metavar="FILE", help="CSV: a class and its own name, or nothing to leave it out."),
]
OffThreshold = Annotated[
    float | None,
    typer.Option(metavar="SCORE", help="With --events: an event ends below this score; by default the threshold."),
]
Smooth = Annotated[
    float | None, typer.Option("--smooth", metavar="SECONDS", help="With --events: smooth scores over this time.")
]
Smoothing = Annotated[
    str | None, typer.Option(metavar="median|mean", help="How scores are smoothed; by default the median.")
]
MinDuration = Annotated[
    float | None, typer.Option("--min-duration", metavar="SECONDS", help="With --events: leave out shorter ones.")
]
MergeGap = Annotated[
    float | None,
    typer.Option(
        "--merge-gap", metavar="SECONDS", help="With --events: join those of a class no further apart than this."
    ),
]
MaxDuration = Annotated[
    float | None,
    typer.Option("--max-duration", metavar="SECONDS", help="With --events: cut longer ones into pieces this long."),
]
StartTime = Annotated[
    str | None,
    typer.Option(
        metavar="auto|TIME",
        help="When recordings began, for outputs: auto finds it in headers and names of field recorders' files, TIME is"
        " that of one recording, such as 2024-05-01T05:30:00.",
    ),
]
Timezone = Annotated[
    str | None,
    typer.Option(metavar="ZONE", help="With --start-time: of times that have none, such as Europe/Berlin or +02:00."),
]
Window = Annotated[
    float | None, typer.Option("--window", metavar="SECONDS", help="Length of the windows; by default 2.")
]
Hop = Annotated[
    float | None, typer.Option("--hop", metavar="SECONDS", help="Distance between windows; by default half a window.")
]
Channel = Annotated[
    str | None,
    typer.Option(
        metavar="N", help="mix (the mean; default), loudest (decodes twice), or the number of a channel from 0."
    ),
]
ClipFormat = Annotated[str, typer.Option("--format", "-f", metavar="wav|flac", help="Format of clips that are cut.")]
Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1, mps; by default a GPU if there is one.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; by default one per core.")
]
BatchSize = Annotated[int | None, typer.Option(metavar="N", min=1, help="Windows that are computed together at most.")]
Engine = Annotated[
    str, typer.Option(metavar="NAME", help="auto (the fastest that is installed), onnx, openvino or torch.")
]
ComputeType = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="float32 (default), bfloat16 (openvino, torch), float16 (torch) or int8 (onnx, openvino).",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        metavar="ID_OR_DIR", help="A data set of the Hub, such as owner/name, a folder of that layout, or Parquet."
    ),
]
Config = Annotated[str | None, typer.Option(metavar="NAME", help="With --dataset: its configuration, if it has any.")]
AudioColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="With --dataset: the column of audio; by default the only one.")
]
AudioRoot = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder of a table's relative paths; by default the table's.")
]
PathColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="A table's column of paths; by default file_name, path, …")
]
LabelColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="A table's column of classes; by default label, labels, …")
]
Separator = Annotated[str, typer.Option(metavar="TEXT", help="Separates classes in one cell.")]


def refuse(reason: str, **options: Any) -> None:
    """Refuses options that were given, if there is a reason."""
    for name in given(**options) if reason else ():
        raise CliError(f"{flag(name)} {reason}")


def choose_data(data: Any, dataset: str | None, *, config: Any, audio_column: Any, **of_tables: Any) -> str:
    """The data that were given, after a check that it is either DATA or --dataset with its options."""
    if bool(data) == bool(dataset):
        raise CliError("give either DATA or --dataset, not both" if dataset else "missing DATA, or --dataset")
    refuse("" if dataset else "needs --dataset", config=config, audio_column=audio_column)
    refuse("is for tables, not for --dataset" if dataset else "", **of_tables)
    return str(dataset or data)


def parse_channel(channel: str | None) -> str | int:
    """The value of `--channel` as the library takes it."""
    return "mix" if channel is None else int(channel) if channel.isdigit() else channel


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: the library has the defaults."""
    return {name: value for name, value in options.items() if value is not None}
