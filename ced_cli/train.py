# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill train`: a store → a student, as a model folder."""

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import FAILED, INTERRUPTED, CliError
from .model import quieten
from .training_options import parse_settings, split_settings

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ced_model.distillation.training import Distillation

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
        from ced_model.distillation.training import DistillationArguments, distill

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
            callbacks=[_make_progress()],
            say=_say,
        )
    if _is_main_process():
        print("\n".join(_report(done, output)))
    _leave_group()


def _checked_usage(store: str, options: TrainOptions) -> tuple[str, str]:
    """Student and output. Raises `CliError` for what can be seen to be wrong without the cost of imports."""
    if options.student is None:
        raise CliError("choose with --student what to train: tiny, mini, small, base, a config.json, or a model")
    path = os.path.expanduser(options.student)
    if options.student not in SIZES and not os.path.exists(path) and options.student.count("/") != 1:
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
    except (ValueError, ImportError) as error:
        raise CliError(_with_option_names(str(error)).rstrip("."), FAILED) from error
    except KeyboardInterrupt as error:
        raise CliError(f"interrupted; --resume goes on from the last checkpoint in {output}", INTERRUPTED) from error


def _with_option_names(message: str) -> str:
    def option(match: re.Match[str]) -> str:
        return "--" + OPTION_NAMES.get(match[1], match[1]).replace("_", "-")

    names = "|".join([*TrainOptions.__dataclass_fields__, *OPTION_NAMES])
    return re.sub(rf"`({names})`", option, message)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _is_main_process() -> bool:
    """Of the processes of `accelerate launch` or `torchrun`."""
    return int(os.environ.get("RANK", "0")) == 0


def _leave_group() -> None:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _make_progress() -> "TrainerCallback":
    """A line on stderr for each evaluation, and a bar if that is a terminal."""
    from transformers import ProgressCallback

    class Lines(ProgressCallback):
        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun, self.first_step = time.monotonic(), state.global_step
            if sys.stderr.isatty():
                super().on_train_begin(args, state, control, **kwargs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.training_bar is not None:
                super().on_step_end(args, state, control, **kwargs)

        def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
            """Held-out files are few, and have no bar of their own."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = logs.get("loss", self.loss)
            if "loss" in logs and args.eval_strategy == "no":
                self._write(args, state, {})

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            if "eval_bce" in metrics:  # not the averaged weights'
                self._write(args, state, metrics)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.training_bar is not None:
                super().on_train_end(args, state, control, **kwargs)

        def _write(self, args: Any, state: Any, metrics: dict[str, float]) -> None:
            if not state.is_world_process_zero:
                return
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            rate = (state.global_step - self.first_step) * batch / max(time.monotonic() - self.begun, 1e-9)
            line = "  ".join([*_figures(state, self.loss, metrics), f"{rate:.3g} chunks/s"])
            if self.training_bar is not None:
                self.training_bar.write(line, file=sys.stderr)
            else:
                _say(line)

    return Lines()


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
