# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands. Each imports the library inside its function, so that help and wrong usage answer at once."""

import sys
from typing import Annotated

import typer

from . import clips, demo, distill, embed, evaluate, finetune, labels, learn, listen, options, plot, search, serve, tag
from .endings import one_line_errors
from .errors import FAILED, CliError
from .terminal import abandon_stdout, put, say

app = typer.Typer(
    help="Tags sounds with CED models.\n\nExample: ced tag sounds/ --model mispeech/ced-mini --output tags.csv",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help and one-line errors, in half the time
)


def run() -> None:
    """Runs the command in `sys.argv`. Help or results that cannot be written to their end are an error as well."""
    try:
        try:
            app(prog_name="ced")
        finally:
            sys.stdout.flush()
    except OSError as error:
        abandon_stdout()
        say(f"ced: standard output: {error.strerror or error}")
        sys.exit(FAILED)


@one_line_errors
def show_version(is_wanted: bool) -> None:
    if not is_wanted:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        put(f"ced {version('ced_model')}")
    except PackageNotFoundError as error:
        raise CliError("only an installed ced_model has a version: pip install it", FAILED) from error
    raise typer.Exit()


COMMANDS = (
    tag.tag,
    clips.clips,
    embed.embed,
    search.search,
    learn.learn,
    evaluate.evaluate,
    finetune.finetune,
    labels.labels,
    plot.plot,
    listen.listen,
    demo.demo,
    serve.serve,
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(distill.app, name="distill")


@app.callback()
def ced(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@one_line_errors
def export(
    model: options.Model = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="onnx, openvino, sherpa-onnx or torch."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to make, once all is verified.")
    ] = None,
    compute_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="float32 (default), float16 (half the size, computed in float32) or int8 (not with torch).",
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(metavar="waveform|mel", help="By default waveform, with the front end inside; sherpa-onnx: mel."),
    ] = None,
    audio: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Recordings (a file or folder) to verify on and to calibrate int8 with; by default"
            " synthetic sounds, and a few that come with the package to verify on. May be given several times.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the export that DIR has.")] = False,
) -> None:
    """Export a model for another program.

    The folder has the model, labels.csv, metadata.json and a README.md with code that runs it. The files are run by
    their own runtime and compared with the model, on clips from the shortest to the longest. If probabilities differ by
    more than 0.0001 (float16: 0.01, int8: 0.25), the export fails, and nothing is left behind.
    """
    from .export import export as export_to

    export_to(
        model=model,
        format=format,
        output=output,
        compute_type=compute_type,
        input=input,
        audio=audio or (),
        overwrite=overwrite,
    )
