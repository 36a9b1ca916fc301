# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, named after the library's keyword arguments."""

from typing import Annotated, Any

import typer

from .completion import complete_class, complete_engine, complete_model
from .endings import flag
from .errors import CliError

# Groups of options in the help
INPUT, CLASSES, WINDOWS, EVENTS = "Input", "Classes and scores", "Windows", "Events"
OUTPUT, COMPUTING, RAY, TRAINING = "Output", "Model and computation", "Ray cluster", "Training"


def option(panel: str | None, *names: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    """An option in a group of the help. Defaults are in its text."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False, **more)


# Input
ListFile = Annotated[
    str | None,
    option(
        INPUT,
        "--from",
        metavar="FILE",
        help="A list of paths (one per line, NUL-separated, Parquet), or - for stdin.",
    ),
]
Dataset = Annotated[
    str | None,
    option(INPUT, metavar="ID_OR_DIR", help="A data set: Hub id (owner/name), folder of that layout, or Parquet."),
]
Config = Annotated[str | None, option(INPUT, metavar="NAME", help="With --dataset: its configuration.")]
Split = Annotated[str | None, option(INPUT, metavar="NAME", help="With --dataset: its split, or all.")]
AudioColumn = Annotated[
    str | None, option(INPUT, metavar="NAME", help="With --dataset: its audio column; by default the only one.")
]
AudioRoot = Annotated[
    str | None, option(INPUT, metavar="DIR", help="Base folder of relative paths in a table; by default its own.")
]
PathColumn = Annotated[
    str | None, option(INPUT, metavar="NAME", help="Column of paths in a table; by default file_name, path, …")
]
LabelColumn = Annotated[
    str | None, option(INPUT, metavar="NAME", help="Column of classes in a table; by default label, labels, …")
]
Separator = Annotated[str, option(INPUT, metavar="TEXT", help="Separates classes in one cell; by default ;.")]
Channel = Annotated[
    str | None,
    option(INPUT, metavar="N", help="mix (the mean, default), loudest (decodes twice), or a channel number from 0."),
]

# Model and computation
Model = Annotated[
    str | None,
    option(
        COMPUTING,
        "--model",
        "-m",
        metavar="DIR_OR_ID",
        help="Model folder or Hub id, such as mispeech/ced-base; by default the bundled ced-nano.",
        autocompletion=complete_model,
    ),
]
Device = Annotated[
    str | None, option(COMPUTING, metavar="DEVICE", help="cpu, cuda, cuda:1, mps; by default a GPU if there is one.")
]
Threads = Annotated[
    int | None, option(COMPUTING, "--threads", metavar="N", min=1, help="CPU threads; by default one per core.")
]
BatchSize = Annotated[int | None, option(COMPUTING, metavar="N", min=1, help="Maximum windows per batch.")]
Engine = Annotated[
    str,
    option(
        COMPUTING,
        metavar="NAME",
        help="onnx, openvino, torch or auto (default: the fastest installed).",
        autocompletion=complete_engine,
    ),
]
ComputeType = Annotated[
    str | None,
    option(
        COMPUTING,
        metavar="TYPE",
        help="float32 (default), bfloat16 (openvino, torch), float16 (torch), int8 (onnx, openvino).",
    ),
]

# Classes and scores
TopK = Annotated[
    int | None,
    option(
        CLASSES,
        "--top-k",
        "-k",
        metavar="N",
        min=1,
        help="Maximum tags; by default 5, or all with --threshold or --labels.",
    ),
]
Threshold = Annotated[
    list[str] | None,
    option(
        CLASSES,
        metavar="SCORE",
        help="Minimum score; with --events 0.5 by default. CLASS=SCORE sets it for one class. Can be repeated.",
    ),
]
ThresholdFile = Annotated[
    str | None,
    option(
        CLASSES,
        "--thresholds",
        metavar="FILE",
        help="Thresholds by class: CSV (such as from ced evaluate --per-class) or JSON. Other classes are left out,"
        " unless --threshold is given.",
    ),
]
Labels = Annotated[
    list[str] | None,
    option(
        CLASSES,
        "--labels",
        "--label",
        "-l",
        metavar="CLASS",
        help="Only these classes: names, indices or machine ids, separated by commas. Dog... is Dog and all classes"
        " below it (see ced labels dog).",
        autocompletion=complete_class,
    ),
]
Exclude = Annotated[
    list[str] | None,
    option(
        CLASSES,
        "--exclude",
        metavar="CLASS",
        help="Leave out these classes and groups.",
        autocompletion=complete_class,
    ),
]
LabelMap = Annotated[
    str | None,
    option(CLASSES, "--label-map", metavar="FILE", help="CSV of classes and your names for them; empty: left out."),
]

# Windows
Window = Annotated[float | None, option(WINDOWS, "--window", metavar="SECONDS", help="Window length; by default 2.")]
Hop = Annotated[
    float | None, option(WINDOWS, "--hop", metavar="SECONDS", help="Window distance; by default half a window.")
]

# Events
OffThreshold = Annotated[
    float | None,
    option(EVENTS, metavar="SCORE", help="An event ends when its score falls below this; by default the threshold."),
]
Smooth = Annotated[float | None, option(EVENTS, "--smooth", metavar="SECONDS", help="Smooth scores over this time.")]
Smoothing = Annotated[str | None, option(EVENTS, metavar="median|mean", help="How to smooth; by default the median.")]
MinDuration = Annotated[
    float | None, option(EVENTS, "--min-duration", metavar="SECONDS", help="Leave out shorter events.")
]
MergeGap = Annotated[
    float | None,
    option(EVENTS, "--merge-gap", metavar="SECONDS", help="Join events of a class with at most this gap between them."),
]
MaxDuration = Annotated[
    float | None, option(EVENTS, "--max-duration", metavar="SECONDS", help="Split longer events into pieces this long.")
]

# Output
AsJson = Annotated[bool, option(OUTPUT, "--json", help="Print JSON.")]
ClipFormat = Annotated[str, option(OUTPUT, "--format", "-f", metavar="wav|flac", help="Format of the clips.")]
StartTime = Annotated[
    str | None,
    option(
        OUTPUT,
        metavar="auto|TIME",
        help="When recordings began: auto reads headers and names of field recorders' files; or the time of one"
        " recording, such as 2024-05-01T05:30:00.",
    ),
]
Timezone = Annotated[
    str | None,
    option(
        OUTPUT, metavar="ZONE", help="With --start-time: zone of times without one, such as Europe/Berlin or +02:00."
    ),
]


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
