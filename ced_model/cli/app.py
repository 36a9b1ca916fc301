# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands. Each imports what does its work inside the function, so that help and wrong usage answer at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import distill, options
from .errors import FAILED, CliError, one_line_errors
from .finetune import finetune
from .formats import Average, Format
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
def tag(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATHS", hidden=True),  # the help has it in the text: Typer would show its type
    ] = None,
    list_file: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE", help="A list of paths, one a line or separated by NUL, or Parquet; - for stdin."
        ),
    ] = None,
    model: options.Model = None,
    top_k: options.TopK = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Leave out tags with a lower score; with --events, by default 0.5."),
    ] = None,
    labels: options.Labels = None,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Length of the windows of long clips; by default 10, with --events 2."),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Distance between windows; by default no overlap, with --events half a window."
        ),
    ] = None,
    average: Annotated[
        Average | None,
        typer.Option(metavar="mean|max", help="What a clip has of its windows' scores; by default the mean."),
    ] = None,
    channel: options.Channel = None,
    events: Annotated[bool, typer.Option("--events", help="Find when each class sounds.")] = False,
    min_duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="With --events: leave out shorter ones.")
    ] = None,
    merge_gap: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="With --events: join those of a class no further apart.")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help=f"{', '.join(Format)}; by default a table, with --output what the name of the file says.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write here, at the end; until then to FILE.journal. With --ray a folder, shard by shard.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the results that --output has, tag the rest and what failed.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Discard the results that --output has.")] = False,
    spreadsheet_safe: Annotated[
        bool,
        typer.Option("--spreadsheet-safe", help="In csv, put ' before names that a spreadsheet takes for formulas."),
    ] = False,
    device: options.Device = None,
    threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    engine: options.Engine = None,
    compute_type: options.ComputeType = None,
    ray: Annotated[bool, typer.Option("--ray", help="Work on the nodes of a Ray cluster.")] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Head of the cluster; by default RAY_ADDRESS, or else this machine."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --ray: by default as many as there is room for.")
    ] = None,
    shard_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="With --ray: inputs per file; by default 16 to 256.")
    ] = None,
) -> None:
    """Tag audio files, folders or standard input.

    PATHS are files, folders (searched recursively; hidden entries are left out), patterns such as "**/*.wav", or -
    for standard input. With --ray they and --output may also be URIs, such as s3://bucket/folder.

    Each input is tagged once, in the given order; one that cannot be read does not stop the others. Exit code: 0, 1
    if inputs failed (each is named on stderr and in the output), 2 for wrong usage.

    In json, jsonl, csv and parquet, bytes of a file name that are not UTF-8 are written as \\xNN (and a backslash
    before xNN as \\x5c): put the byte in place of each to have the name back.
    """
    from .tag import TagOptions, tag

    if as_json and format not in (None, Format.JSON):
        raise CliError(f"--json contradicts --format {format}")
    tag(
        paths or [],
        list_file,
        TagOptions(
            model=model,
            top_k=top_k,
            threshold=threshold,
            labels=tuple(labels) if labels else None,
            window=window,
            hop=hop,
            average=average,
            channel=channel,
            events=events,
            min_duration=min_duration,
            merge_gap=merge_gap,
            format=Format.JSON if as_json else format,
            output=output,
            resume=resume,
            overwrite=overwrite,
            spreadsheet_safe=spreadsheet_safe,
            device=device,
            threads=threads,
            batch_size=batch_size,
            engine=engine,
            compute_type=compute_type,
            ray=ray,
            ray_address=ray_address,
            workers=workers,
            shard_size=shard_size,
        ),
    )


@app.command()
@one_line_errors
def evaluate(
    data: Annotated[str, typer.Argument(metavar="DATA", hidden=True)],
    model: options.Model = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which clips: test, train, … or all; of several by default those to test."),
    ] = None,
    audio_root: options.AudioRoot = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    separator: options.Separator = ";",
    per_class: Annotated[
        str | None, typer.Option(metavar="FILE.csv", help="Write the figures of each class here.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(metavar="FILE.npz", help="Write files, labels, targets and scores here, as arrays.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files that are there.")] = False,
    channel: options.Channel = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    device: options.Device = None,
    threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    engine: options.Engine = None,
    compute_type: options.ComputeType = None,
) -> None:
    """Compare a model's tags with labels.

    DATA is a folder with a folder of clips for each class, a folder with a metadata.csv, or a table (CSV, TSV, JSON
    lines, Parquet) with a column of paths and either one of classes, several with ; between them, or a column for each
    class with values from 0 to 1. Classes are those of the model, by name or by AudioSet's machine id.

    Exit code: 0, 1 if clips were missing or could not be read (each is named on stderr), 2 for wrong usage.
    """
    from .evaluate import EvaluateOptions, evaluate_data

    evaluate_data(
        data,
        EvaluateOptions(
            model=model,
            split=split,
            audio_root=audio_root,
            path_column=path_column,
            label_column=label_column,
            separator=separator,
            per_class=per_class,
            predictions=predictions,
            overwrite=overwrite,
            channel=channel,
            as_json=as_json,
            device=device,
            threads=threads,
            batch_size=batch_size,
            engine=engine,
            compute_type=compute_type,
        ),
    )


app.command()(finetune)


@app.command()
@one_line_errors
def labels(
    query: Annotated[
        list[str] | None,
        typer.Argument(metavar="QUERY", hidden=True),
    ] = None,
) -> None:
    """Search the 527 classes of AudioSet.

    QUERY is part of a name, an index or a machine id; without it, all classes are shown. Each line has an index, a
    machine id and a name.
    """
    from .labels import show_labels

    show_labels(" ".join(query or []))


@app.command()
@one_line_errors
def plot(
    file: Annotated[Path, typer.Argument(metavar="FILE", hidden=True)],
    model: options.Model = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The PNG; by default FILE with .png.")
    ] = None,
    window: options.Window = None,
    hop: options.Hop = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture that is there.")] = False,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", metavar="N", min=1, help="Classes to draw; by default 10.")
    ] = None,
    channel: options.Channel = None,
    engine: options.Engine = None,
    compute_type: options.ComputeType = None,
) -> None:
    """Draw an audio file and its tags over time.

    The PNG shows the log-mel spectrogram of FILE, and the scores of the classes with the highest peaks below it.
    """
    from .plot import plot_file

    plot_file(
        file,
        model=model,
        output=output,
        overwrite=overwrite,
        window_s=window,
        hop_s=hop,
        top_k=top_k,
        channel=channel,
        engine=engine,
        compute_type=compute_type,
    )


@app.command()
@one_line_errors
def listen(
    model: options.Model = None,
    window: options.Window = None,
    hop: options.Hop = None,
    top_k: options.TopK = None,
    threshold: options.Threshold = None,
    labels: options.Labels = None,
    input_device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Index or name of the microphone; see --list-devices.")
    ] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="Show the microphones and exit.")] = False,
    engine: options.Engine = None,
    compute_type: options.ComputeType = None,
) -> None:
    """Tag what a microphone hears, as it comes in."""
    from .listen import listen

    listen(
        model=model,
        window_s=window,
        hop_s=hop,
        top_k=top_k,
        threshold=threshold,
        labels=labels,
        input_device=input_device,
        list_devices=list_devices,
        engine=engine,
        compute_type=compute_type,
    )


@app.command()
@one_line_errors
def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR_OR_ID",
            help="Offer this model, too, and first: a model folder, or the id of a Hub repository. May be given several"
            " times.",
        ),
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Listen here; by default for this machine only.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="By default the first free one from 7860 on.")
    ] = None,
    max_megabytes: Annotated[
        float | None, typer.Option(metavar="MB", help="Refuse larger files; by default 100.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Refuse longer recordings; by default 10.")
    ] = None,
) -> None:
    """Tag sounds in the browser.

    Serves a page to upload or record sounds and see what they are and when, and the same as an API. Nothing leaves the
    machine, except to fetch a published model that is chosen. Ctrl-C ends it.
    """
    from .demo import serve_demo

    serve_demo(models=model or [], host=host, port=port, max_megabytes=max_megabytes, max_minutes=max_minutes)


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
