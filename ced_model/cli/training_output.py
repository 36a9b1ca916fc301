# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Messages and progress of the training commands, on stderr."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..messages import printable
from .errors import FAILED, INTERRUPTED, CliError
from .terminal import say

if TYPE_CHECKING:
    from transformers import TrainerCallback

# (state, training loss, evaluation metrics, samples per second) → a line or None
MakeLine = Callable[[Any, float | None, dict[str, float], float], str | None]


def is_main_process() -> bool:
    """Whether this is the main one of the processes of `accelerate launch` or `torchrun`."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_group() -> None:
    """Leaves the group of processes, to avoid a warning of PyTorch."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def use_threads(threads: int | None) -> None:
    """Sets the number of CPU threads of torch, unless `threads` is None."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def training_errors(output: str, again: str) -> Iterator[None]:
    """Converts expected errors to a one-line CliError. `again` is the advice on how to continue."""
    from ..messages import OptionError

    try:
        yield
    except OptionError:
        raise  # shown with its flag by `one_line_errors`
    except ValueError as error:
        raise CliError(str(error).rstrip("."), FAILED) from error
    except KeyboardInterrupt as error:
        raise CliError(f"interrupted; {again}", INTERRUPTED) from error
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # a class of torch, which may not be imported yet
            raise
        raise CliError(f"out of memory: choose a smaller --batch-size; {again}", FAILED) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise CliError(f"{output}: {error.strerror}: make room, then {again}", FAILED) from error


def make_progress(make_line: MakeLine) -> "TrainerCallback":
    """Prints a line per evaluation (without evaluations, per log), and a bar if stderr is a terminal."""
    from transformers import ProgressCallback

    class Lines(ProgressCallback):
        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun, self.first_step = time.monotonic(), state.global_step
            if sys.stderr.isatty() and not args.disable_tqdm:
                super().on_train_begin(args, state, control, **kwargs)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.training_bar is not None:
                super().on_step_end(args, state, control, **kwargs)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.training_bar is not None:
                super().on_train_end(args, state, control, **kwargs)

        def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
            """No bar for evaluations, which are short."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)
            if "loss" in (logs or {}) and args.eval_strategy == "no":
                self._write(args, state, {})

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            self._write(args, state, metrics or {})

        def _write(self, args: Any, state: Any, metrics: dict[str, float]) -> None:
            batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            rate = (state.global_step - self.first_step) * batch / max(time.monotonic() - self.begun, 1e-9)
            line = make_line(state, self.loss, metrics, rate) if state.is_world_process_zero else None
            if line is not None and self.training_bar is not None:
                self.training_bar.write(printable(line), file=sys.stderr)
            elif line is not None:
                say(line)

    return Lines()
