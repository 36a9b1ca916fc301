# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands. Each imports the library inside its function, which keeps `--help` and usage errors fast."""

import sys
from collections.abc import Callable
from inspect import cleandoc
from typing import Annotated

import typer

from .. import __version__
from . import (
    clips,
    convert,
    demo,
    distill,
    doctor,
    embed,
    evaluate,
    export,
    finetune,
    labels,
    learn,
    listen,
    plot,
    search,
    serve,
    tag,
)
from .endings import one_line_errors
from .errors import FAILED
from .terminal import abandon_stdout, put, say
from .usage import Command, Group

app = typer.Typer(
    cls=Group,
    help="Tag sounds with CED models: 527 classes of AudioSet, or your own.\n\n"
    "`ced COMMAND --help` shows the options of a command.\n\n"
    "`ced --install-completion` sets up completion in your shell.",
    epilog="Example: ced tag sounds/ --model mispeech/ced-mini --output tags.csv",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes half the time
)


def run() -> None:
    """Runs the command in `sys.argv`. Fails if the help or the results cannot be written completely."""
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
    put(f"ced {__version__}")
    raise typer.Exit()


RECORDINGS, SIMILAR, OWN = "Recordings", "Similar sounds", "Your own models"
MODELS, INFORMATION = "Model files", "Information"
COMMANDS: dict[str, dict[Callable[..., None], str]] = {
    RECORDINGS: {
        tag.tag: """
            ced tag recording.wav
            ced tag sounds/ --model mispeech/ced-base --output tags.csv
            ced tag recording.wav --events --labels Dog... --output dogs.txt -f audacity
            ced tag "**/*.flac" --threshold 0.3 --json
        """,
        clips.clips: "ced clips recordings/ --labels Dog... --threshold 0.4 --output dogs",
        plot.plot: "ced plot recording.wav --labels Speech,Music --output plot.png",
        listen.listen: """
            ced listen
            ced listen --events --labels Speech --threshold 0.4
            ced listen rtsp://camera.lan/yard --labels Dog... --save-clips clips
        """,
        serve.serve: "ced serve --model mispeech/ced-base --port 8000",
        demo.demo: "ced demo --model mispeech/ced-base",
    },
    SIMILAR: {
        embed.embed: "ced embed recordings/ --window 2 --output recordings.npz",
        search.search: "ced search bark.wav recordings.npz --clips barks",
    },
    OWN: {
        learn.learn: "ced learn sounds/ --negatives other/ --output my-model",
        finetune.finetune: "ced finetune sounds/ --model mispeech/ced-tiny --output my-model",
        evaluate.evaluate: """
            ced evaluate sounds/ --model my-model --per-class classes.csv
            ced evaluate labels.tsv --events --audio-root recordings/
        """,
    },
    MODELS: {
        export.export: "ced export --model mispeech/ced-tiny --format onnx --output ced-tiny-onnx",
        convert.convert: """
            ced convert audiotransformer_tiny_mAP_4814.pt ced-tiny
            ced convert --download tiny ced-tiny
        """,
    },
    INFORMATION: {
        labels.labels: "ced labels dog",
        doctor.doctor: "ced doctor",
    },
}
for panel, commands in COMMANDS.items():
    for command, examples in commands.items():
        app.command(cls=Command, rich_help_panel=panel, epilog=cleandoc(examples))(command)
    if panel == OWN:
        app.add_typer(distill.app, name="distill", rich_help_panel=panel)


@app.callback()
def ced(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
