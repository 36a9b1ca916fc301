# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options shared by several commands, named after the library's keyword arguments."""

from typing import Annotated, Any

import typer

from .completion import complete_class, complete_engine, complete_model
from .endings import flag
from .errors import CliError

# Groups of options in the help
INPUT, CLASSES, WINDOWS, EVENTS = "Input", "Classes and scores", "Windows", "Events"
OUTPUT, COMPUTING, RAY, TRAINING = "Output", "Model and computation", "Ray cluster", "Training"
SERVER, LIMITS = "Server", "Limits"


def option(panel: str | None, *names: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    """An option in a group of the help. The help text states the default."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, show_default=False, **more)


# Input
ListFile = Annotated[
    str | None,
    option(
        INPUT,
        "--from",
        metavar="FILE",
        help="List of paths (one per line, NUL-separated, or Parquet); - for stdin.",
    ),
]
Dataset = Annotated[
    str | None,
    option(
        INPUT, metavar="ID_OR_DIR", help="Data set: Hub id (owner/name), local folder of a data set, or Parquet file."
    ),
]
Config = Annotated[str | None, option(INPUT, metavar="NAME", help="Configuration of --dataset.")]
Split = Annotated[str | None, option(INPUT, metavar="NAME", help="Split of --dataset, or all.")]
AudioColumn = Annotated[
    str | None, option(INPUT, metavar="NAME", help="Audio column of --dataset, if there are several.")
]
AudioRoot = Annotated[
    str | None,
    option(INPUT, metavar="DIR", help="Base folder of relative paths in a table; by default the folder of the table."),
]
PathColumn = Annotated[
    str | None, option(INPUT, metavar="NAME", help="Column of paths in a table; by default file_name, path or similar.")
]
LabelColumn = Annotated[
    str | None, option(INPUT, metavar="NAME", help="Column of classes in a table; by default label, labels or similar.")
]
Separator = Annotated[
    str, option(INPUT, metavar="TEXT", help="Separator of classes in a cell of a table; by default a semicolon.")
]
Channel = Annotated[
    str | None,
    option(INPUT, metavar="N", help="mix (mean of all, default), loudest (slower: decodes twice), or a number from 0."),
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
    str | None, option(COMPUTING, metavar="DEVICE", help="cpu, cuda, cuda:1 or mps; by default a GPU if there is one.")
]
Threads = Annotated[
    int | None, option(COMPUTING, "--threads", metavar="N", min=1, help="CPU threads; by default one per core.")
]
BatchSize = Annotated[
    int | None, option(COMPUTING, metavar="N", min=1, help="Maximum windows per batch; by default 4 on a CPU, else 32.")
]
Engine = Annotated[
    str,
    option(
        COMPUTING,
        metavar="NAME",
        help="onnx, openvino, torch, or auto (default): the fastest one installed.",
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
        help="Thresholds by class: CSV (such as from ced evaluate --per-class) or JSON. Other classes are left out"
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
        help="Leave out these classes; written as for --labels.",
        autocompletion=complete_class,
    ),
]
LabelMap = Annotated[
    str | None,
    option(
        CLASSES,
        "--label-map",
        metavar="FILE",
        help="CSV with two columns: class, and your name for it. An empty name leaves the class out.",
    ),
]

# Windows
Window = Annotated[float | None, option(WINDOWS, "--window", metavar="SECONDS", help="Window length; by default 2.")]
Hop = Annotated[
    float | None,
    option(WINDOWS, "--hop", metavar="SECONDS", help="Distance between window starts; by default half a window."),
]

# Events
OffThreshold = Annotated[
    float | None,
    option(EVENTS, metavar="SCORE", help="An event ends when its score falls below this; by default the threshold."),
]
Smooth = Annotated[
    float | None,
    option(EVENTS, "--smooth", metavar="SECONDS", help="Smooth scores over this time before events are found."),
]
Smoothing = Annotated[str | None, option(EVENTS, metavar="median|mean", help="Type of smoothing; by default median.")]
MinDuration = Annotated[
    float | None, option(EVENTS, "--min-duration", metavar="SECONDS", help="Leave out shorter events.")
]
MergeGap = Annotated[
    float | None,
    option(EVENTS, "--merge-gap", metavar="SECONDS", help="Join events of a class that are at most this far apart."),
]
MaxDuration = Annotated[
    float | None,
    option(EVENTS, "--max-duration", metavar="SECONDS", help="Split longer events into parts of this length."),
]

# Output
AsJson = Annotated[bool, option(OUTPUT, "--json", help="Print JSON.")]
ClipFormat = Annotated[
    str, option(OUTPUT, "--format", "-f", metavar="wav|flac", help="Format of the clips; by default wav.")
]
StartTime = Annotated[
    str | None,
    option(
        OUTPUT,
        metavar="auto|TIME",
        help="Start time of recordings: auto reads it from headers or file names of field recorders. A time such as"
        " 2024-05-01T05:30:00 is for one recording.",
    ),
]
Timezone = Annotated[
    str | None,
    option(
        OUTPUT, metavar="ZONE", help="Time zone for --start-time where none is given, such as Europe/Berlin or +02:00."
    ),
]


def refuse(reason: str, **options: Any) -> None:
    """Raises an error for each option that was given, unless `reason` is empty."""
    for name in given(**options) if reason else ():
        raise CliError(f"{flag(name)} {reason}")


def choose_data(data: Any, dataset: str | None, *, config: Any, audio_column: Any, **of_tables: Any) -> str:
    """DATA or --dataset, whichever was given, after a check of their options."""
    if bool(data) == bool(dataset):
        raise CliError("give either DATA or --dataset, not both" if dataset else "missing DATA or --dataset")
    refuse("" if dataset else "needs --dataset", config=config, audio_column=audio_column)
    refuse("does not work with --dataset" if dataset else "", **of_tables)
    return str(dataset or data)


def parse_channel(channel: str | None) -> str | int:
    """The library's argument `channel`."""
    return "mix" if channel is None else int(channel) if channel.isdigit() else channel


def given(**options: Any) -> dict[str, Any]:
    """The options that were given. The library has the defaults of the others."""
    return {name: value for name, value in options.items() if value is not None}
