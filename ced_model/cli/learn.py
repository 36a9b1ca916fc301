# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced learn`: a few examples per class → a model folder with these classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..messages import count
from . import options
from .endings import one_line_errors
from .errors import CliError
from .model import load_tagger
from .options import INPUT, OUTPUT, WINDOWS, option
from .progress import RunProgress
from .terminal import put, quoted, say

if TYPE_CHECKING:
    from ..own_classes import LearnedClasses


@one_line_errors
def learn(
    examples: Annotated[str, typer.Argument(metavar="EXAMPLES", hidden=True)],
    model: options.Model = None,
    output: Annotated[
        str | None, option(OUTPUT, "--output", "-o", metavar="DIR", help="The new model folder. Required.")
    ] = None,
    negatives: Annotated[
        list[str] | None,
        option(INPUT, metavar="PATH", help="Counter-examples: file or folder of other sounds. Can be repeated."),
    ] = None,
    replace: Annotated[
        bool, option(OUTPUT, "--replace", help="Replace the classes of the model instead of adding to them.")
    ] = False,
    window_s: Annotated[
        float | None,
        option(
            WINDOWS, "--window", metavar="SECONDS", help="Learn from windows of this length; by default whole clips."
        ),
    ] = None,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Replace the model in DIR.")] = False,
    device: options.Device = None,
    num_threads: options.Threads = None,
    engine: options.Engine = "auto",
) -> None:
    """Add your own classes to a model from a few examples.

    EXAMPLES is a folder with one folder of clips per class. The result is a model folder with the classes of the model
    and the new ones. Use --negatives to give other sounds that occur where the model will be used: without them,
    unknown sounds are often tagged as the most similar class.
    """
    if output is None:
        raise CliError("missing --output DIR: where to write the model")
    from ..examples import find_examples
    from ..model_files import check_output
    from ..own_classes import check_installed, learn_classes

    check_output(Path(output).absolute(), overwrite)  # before a model is downloaded
    check_installed()
    found = find_examples(examples, negatives or ())
    tagger = load_tagger(model, device=device, num_threads=num_threads, engine=engine)
    progress = RunProgress(len(found.paths))

    def say_above(line: str) -> None:
        with progress.hidden():
            say(line)

    with progress:
        learned = learn_classes(
            examples,
            output,
            model=tagger,
            negatives=negatives or (),
            replace=replace,
            window_s=window_s,
            overwrite=overwrite,
            say=say_above,
            on_audio=progress.add_audio,
            on_clip=lambda path, reason: progress.count(failed=reason is not None),
        )
    put(*_report(learned, output))


def _report(learned: "LearnedClasses", output: str) -> Iterator[str]:
    yield f"{'examples':>8}  {'found':>5}  {'false':>5}  class"
    for report in learned.reports:
        found, false = ("–" if count is None else count for count in (report.found, report.false))
        yield f"{report.examples:8}  {found:>5}  {false:>5}  {report.label}"
    yield "found: examples with a score from 0.5; false: other clips with such a score (by cross-validation)"
    kept = len(learned.labels) - len(learned.reports)
    rest = f", {kept} of {learned.base}" if kept else f", instead of those of {learned.base}"
    yield f"wrote {quoted(output)}: {count(len(learned.reports), 'class', 'es')} from examples{rest}"
    yield f"tag with it: ced tag FILES --model {quoted(output)}"
