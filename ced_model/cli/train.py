# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill train`: a store → a student, as a model folder."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..bundled import DEFAULT_MODEL
from .errors import FAILED, INTERRUPTED, CliError
from .model import quieten
from .terminal import put, say
from .training_options import parse_settings, split_settings
from .training_output import is_main_process, make_progress, with_option_names

if TYPE_CHECKING:
    from ..distillation.training import Distillation

# Names of the library, where they are not those of the options with a - for each _.
OPTION_NAMES = {"consistent": "no-consistency", "training": "set"}
SIZES = ("tiny", "mini", "small", "base")
SHARES = {"top1": "top-1", "mAP": "mAP"}


@dataclass(frozen=True)
class TrainOptions:
    """The options of `ced distill train`, named as on the command line; None where they were not given."""

    student: str | None = None
    output: str | None = None
    audio: str | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    mixup: float | None = None
    leftover: str | None = None
    no_consistency: bool = False
    held_out: float | None = None
    average: int | None = None
    save_steps: int | None = None
    workers: int | None = None
    threads: int | None = None
    seed: int | None = None
    report_to: str | None = None
    settings: tuple[str, ...] = ()
    allow_unfinished: bool = False
    resume: bool = False
    overwrite: bool = False


def train_student(store: str, options: TrainOptions) -> None:
    """
    Trains a student on a store, and says on stderr how it goes.

    Raises:
        CliError: for wrong usage, and where it cannot go on.
    """
    student, output = _checked_usage(store, options)
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    with _one_line_failures(output):
        from ..distillation.training import DistillationArguments, distill

        given = {name: getattr(options, name, None) for name in DistillationArguments.__dataclass_fields__}
        values = {name: value for name, value in given.items() if value is not None}
        values |= {"consistent": not options.no_consistency, "training": parse_settings(options.settings)}
        try:
            arguments = DistillationArguments(**values)
        except ValueError as error:
            raise CliError(_with_option_names(str(error)).rstrip(".")) from error
        quieten()
        done = distill(
            os.path.expanduser(store),
            student,
            output,
            arguments,
            audio=None if options.audio is None else os.path.expanduser(options.audio),
            resume=options.resume,
            overwrite=options.overwrite,
            allow_unfinished=options.allow_unfinished,
            callbacks=[make_progress(_line)],
            say=say,
        )
    if is_main_process():
        put(*_report(done, output))
    _leave_group()


def _checked_usage(store: str, options: TrainOptions) -> tuple[str, str]:
    """Student and output. Raises `CliError` for what can be seen to be wrong without the cost of imports."""
    if options.student is None:
        raise CliError("choose with --student what to train: tiny, mini, small, base, a config.json, or a model")
    path = os.path.expanduser(options.student)
    is_known = options.student in (*SIZES, DEFAULT_MODEL)
    if not is_known and not os.path.exists(path) and options.student.count("/") != 1:
        raise CliError(
            f"--student {options.student}: it is none of {', '.join(SIZES)}, and there is no such file or folder"
        )
    if options.output is None:
        raise CliError("choose with --output DIR where to write the model")
    if not os.path.isdir(os.path.expanduser(store)):
        raise CliError(f"{store}: there is no such folder; `ced distill teach` makes a store")
    if options.audio is not None and not os.path.isdir(os.path.expanduser(options.audio)):
        raise CliError(f"--audio {options.audio}: there is no such folder")
    if options.epochs is not None and options.max_steps is not None:
        raise CliError("--epochs and --max-steps both say when to end: give one of them")
    if options.resume and options.overwrite:
        raise CliError("--resume keeps the checkpoints, --overwrite discards them: choose one")
    split_settings(options.settings)
    return options.student, os.path.expanduser(options.output)


@contextmanager
def _one_line_failures(output: str) -> Iterator[None]:
    """What goes wrong fails the command with one line, with options named as on the command line."""
    try:
        yield
    except ModuleNotFoundError:
        raise
    except (ValueError, ImportError) as error:
        raise CliError(_with_option_names(str(error)).rstrip("."), FAILED) from error
    except KeyboardInterrupt as error:
        raise CliError(f"interrupted; --resume goes on from the last checkpoint in {output}", INTERRUPTED) from error


def _with_option_names(message: str) -> str:
    return with_option_names(message, {name: name for name in TrainOptions.__dataclass_fields__} | OPTION_NAMES)


def _leave_group() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _line(state: Any, loss: float | None, metrics: dict[str, float], rate: float) -> str | None:
    if metrics and "eval_bce" not in metrics:  # the averaged weights'
        return None
    return "  ".join([*_figures(state, loss, metrics), f"{rate:.3g} chunks/s"])


def _figures(state: Any, loss: float | None, metrics: dict[str, float]) -> list[str]:
    figures = {"loss": loss, "held out": metrics.get("eval_bce")}
    shares = {name: metrics.get(f"eval_{key}") for key, name in SHARES.items()}
    return [
        f"epoch {state.epoch:.3g} of {state.num_train_epochs:g}",
        *(f"{name} {value:.4f}" for name, value in figures.items() if value is not None),
        *(f"{name} {value:.2f}" for name, value in shares.items() if value is not None),
    ]


def _report(done: "Distillation", output: str) -> Iterator[str]:
    """What the command ends with on stdout."""
    steps = ", ".join(map(str, sorted(done.averaged)))
    weights = f"the mean of steps {steps}" if len(done.averaged) > 1 else f"step {steps}"
    yield f"wrote {output}: {done.parameters:,} parameters, weights of {weights}"
    if done.metrics:
        bce, prior = done.metrics["bce"], done.metrics["prior_bce"]
        yield f"on held-out files: loss {bce:.4f}; the best constant answer has {prior:.4f}"
        yield "agreement with the teachers there: " + ", ".join(
            f"{name} {done.metrics[key]:.3f}" for key, name in SHARES.items() if key in done.metrics
        )
    yield f"tag with it: ced tag FILES --model {shlex.quote(output)}"
