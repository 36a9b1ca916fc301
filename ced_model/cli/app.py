# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands. Each imports the library inside its function, so that help and wrong usage answer at once."""

import sys
from typing import Annotated

import typer

from . import demo, distill, evaluate, labels, listen, options, plot, tag
from .errors import FAILED, CliError, one_line_errors
from .terminal import abandon_stdout, put, say
from .training_options import Settings

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


for command in (tag.tag, evaluate.evaluate, labels.labels, plot.plot, listen.listen, demo.demo):
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
def finetune(
    data: Annotated[str, typer.Argument(metavar="DATA", hidden=True)],
    model: options.Model = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Write the model here, at the end; until then DIR.training."
        ),
    ] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="DATA", help="Clips to validate with; by default the split of that name.")
    ] = None,
    validation_share: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Clips to hold out if there are none for validation; by default 0.1."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Clips to train with; by default the split train, or all.")
    ] = None,
    audio_root: options.AudioRoot = None,
    path_column: options.PathColumn = None,
    label_column: options.LabelColumn = None,
    separator: options.Separator = ";",
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Score each class by itself, even if no clip has several.")
    ] = False,
    train: Annotated[
        str | None,
        typer.Option(metavar="PART", help="head, last:K (with the last K blocks) or all; by default all."),
    ] = None,
    lora: Annotated[
        int | None, typer.Option(metavar="RANK", min=1, help="Train LoRA adapters in place of these blocks.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(metavar="N", help="At most so many; by default 20.")] = None,
    patience: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Stop after N epochs without progress; by default 5, 0 for never."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Clips per step and device; by default 16.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="Highest, of the head; by default 0.001.")
    ] = None,
    encoder_learning_rate: Annotated[
        float | None,
        typer.Option(metavar="RATE", help="Of the encoder; by default a tenth of the head's, with --lora the same."),
    ] = None,
    class_weights: Annotated[
        str | None, typer.Option(metavar="balanced|none", help="Whether rare classes weigh more; by default none.")
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Train on parts of this length of longer clips; by default 10.1."),
    ] = None,
    mixup: Annotated[float | None, typer.Option(metavar="ALPHA", help="Mix clips and their labels.")] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Mask a part of each spectrogram in time and in frequency.")
    ] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", min=0, help="Of all that is random; by default 0.")] = None,
    settings: Settings = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="cpu, cuda or mps; by default a GPU if there is one.")
    ] = None,
    threads: options.Threads = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model in DIR, and a run that is not resumed.")
    ] = False,
) -> None:
    """Train a model further on labelled clips of your own.

    DATA is a folder with a folder of clips for each class, a folder with a metadata.csv, or a table, as for
    `ced evaluate`. The model gets a new head for its classes, unless they are the model's own.

    Example: ced finetune sounds/ --model mispeech/ced-tiny --output my-model
    """
    from .finetune import FinetuneOptions, finetune_model

    finetune_model(
        data,
        FinetuneOptions(
            model=model,
            output=output,
            validation=validation,
            validation_share=validation_share,
            split=split,
            audio_root=audio_root,
            path_column=path_column,
            label_column=label_column,
            separator=separator,
            multi_label=multi_label,
            train=train,
            lora=lora,
            epochs=epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            encoder_learning_rate=encoder_learning_rate,
            class_weights=class_weights,
            crop=crop,
            mixup=mixup,
            masks=masks,
            seed=seed,
            settings=tuple(settings or ()),
            device=device,
            threads=threads,
            resume=resume,
            overwrite=overwrite,
        ),
    )


@app.command()
@one_line_errors
def export(
    model: options.Model = None,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="onnx, openvino, torch, executorch or sherpa-onnx."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="The folder to make, once all is verified.")
    ] = None,
    quantize: Annotated[
        str | None,
        typer.Option(metavar="fp16|int8", help="fp16 halves the file; int8 computes in 8-bit integers."),
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
    """Export a model to another runtime.

    The folder has the model, labels.csv, metadata.json and a README.md with lines that run it. What was written is run
    by its own runtime and compared with torch, on clips from the shortest to the longest. Where probabilities differ by
    more than 0.0001 (fp16: 0.01, int8: 0.25) the export fails, and nothing is left behind.
    """
    from .export import ExportOptions
    from .export import export as export_to

    export_to(ExportOptions(model, format, output, quantize, input, tuple(audio or ()), overwrite))
