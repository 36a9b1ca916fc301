# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced convert`: an original checkpoint or a Hub repository → a verified model folder."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .completion import SIZES, complete_size
from .endings import one_line_errors
from .errors import CliError
from .options import INPUT, OUTPUT, option
from .terminal import put, say


@one_line_errors
def convert(
    paths: Annotated[list[str], typer.Argument(metavar="SOURCE DIR", hidden=True)],
    download: Annotated[
        str | None,
        option(
            INPUT,
            metavar="SIZE",
            help=f"Download SOURCE from Zenodo: {', '.join(SIZES)}.",
            autocompletion=complete_size,
        ),
    ] = None,
    push_to: Annotated[
        str | None,
        option(OUTPUT, "--push-to-hub", metavar="REPO", help="Upload DIR to this Hub repository afterwards."),
    ] = None,
    num_heads: Annotated[
        int | None,
        option(INPUT, metavar="N", min=1, help="Number of attention heads, for a SOURCE without this number."),
    ] = None,
    output: Annotated[
        str | None, option(OUTPUT, "--output", "-o", metavar="DIR", help="The same as the argument DIR.")
    ] = None,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Replace the model in DIR.")] = False,
) -> None:
    """Convert an original CED checkpoint to a model folder.

    SOURCE is a .pt file, a model folder or the id of a Hub repository. With --download, give only DIR. Weights,
    configuration and model card are written to DIR. Then DIR is loaded, and its outputs are compared with those of
    SOURCE. `convert_checkpoint.py` is the same command.
    """
    paths = paths + ([] if output is None else [output])
    if len(paths) != (2 if download is None else 1):
        raise CliError("expected SOURCE DIR, or --download SIZE DIR")
    if download is not None and download not in SIZES:
        raise CliError(f"--download {download}: expected {', '.join(SIZES)}")
    from ..conversion import check_repo_id, convert_checkpoint, push_to_hub
    from ..pretrained import check_output
    from ..zenodo import download_checkpoint, sha256_of

    source, folder = paths[0], paths[-1]
    check_output(Path(folder).absolute(), overwrite)  # before a download
    if push_to is not None:
        check_repo_id(push_to)
    try:
        if download is not None:
            source = os.fspath(download_checkpoint(download))
            put(f"downloaded {source}", f"sha256 {sha256_of(source)}")
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("run the same command again to continue the download") from error
    done = convert_checkpoint(
        source, folder, num_heads=num_heads, overwrite=overwrite, model_id=push_to, published=download
    )
    say(*(f"note: {note}" for note in done.notes))
    kind = "encoder without a head" if done.num_labels is None else f"{done.num_labels} classes"
    put(
        f"verified: {done.folder} has the same tensors and outputs as {source} ({done.architecture},"
        f" {done.size or 'own size'}, {done.parameters:,} parameters, {kind})"
    )
    if push_to is not None:
        put(f"uploaded to {push_to_hub(done.folder, push_to)}")
