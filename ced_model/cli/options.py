# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, named after the library's keyword arguments."""

from typing import Annotated, Any

import typer

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
Threshold = Annotated[float | None, typer.Option(metavar="SCORE", help="Leave out tags with a lower score.")]
Labels = Annotated[
    list[str] | None,
    typer.Option("--labels", "-l", metavar="CLASS", help="Consider this class only. May be given several times."),
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


def parse_channel(channel: str | None) -> str | int:
    """The value of `--channel` as the library takes it."""
    return "mix" if channel is None else int(channel) if channel.isdigit() else channel


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: the library has the defaults."""
    return {name: value for name, value in options.items() if value is not None}
