# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill teach`: audio and teachers → a store."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..input_list import escape_name, read_list
from .errors import FAILED, INTERRUPTED, CliError
from .model import quieten
from .progress import RunProgress
from .terminal import one_line, say
from .training_output import with_option_names

if TYPE_CHECKING:
    from ..distillation.store import Store


@dataclass(frozen=True)
class TeachOptions:
    """The options of `ced distill teach`, named as on the command line; None where they were not given."""

    teachers: tuple[str, ...]
    epochs: int | None
    output: str | None
    top_k: int
    chunk: float
    max_shift: float
    max_time_mask: int
    max_freq_mask: int
    seed: int
    device: str | None
    batch_size: int
    workers: int | None


def teach(audio: list[str], list_file: str | None, options: TeachOptions) -> None:
    """
    Makes a store, or goes on with it, and says on stderr what it is.

    Raises:
        CliError: for wrong usage, and where it cannot go on.
    """
    paths = _checked_usage(audio, list_file, options)
    assert options.epochs is not None and options.output is not None
    try:
        from ..distillation.augmentation import Augmentation
        from ..distillation.teaching import teach
    except ImportError as error:  # of an extra: it says which
        raise CliError(str(error), FAILED) from error
    quieten()
    with _one_line(options.output):
        try:
            augmentation = Augmentation(options.chunk, options.max_shift, options.max_time_mask, options.max_freq_mask)
        except ValueError as error:
            raise CliError(_with_options(str(error))) from error
        with _Progress() as progress:
            store = teach(
                paths,
                options.teachers,
                options.output,
                epochs=options.epochs,
                augmentation=augmentation,
                top_k=options.top_k,
                seed=options.seed,
                batch_size=options.batch_size,
                device=options.device,
                num_workers=options.workers,
                progress=progress,
            )
    _finish(store)


def _checked_usage(audio: list[str], list_file: str | None, options: TeachOptions) -> list[str]:
    """All paths of audio; what can be seen to be wrong is told before torch is imported."""
    for value, advice in (
        (audio or list_file, "AUDIO: folders and files, or --from FILE"),
        (options.teachers, "--teacher: a model folder, a Hub id, or a callable as path/to/file.py:attribute"),
        (options.epochs, "--epochs: the paper has 120 for twenty thousand clips, and 10 for two million"),
        (options.output, "--output: the folder of the store"),
    ):
        if not value:
            raise CliError(f"missing {advice}")
    for path in audio:
        if not os.path.exists(path):
            raise CliError(f"{escape_name(path)}: no such file or folder")
    paths = audio + ([] if list_file is None else read_list(list_file))
    if not paths:
        raise CliError(f"--from {escape_name(str(list_file))}: an empty list")
    return paths


@contextmanager
def _one_line(output: str) -> Iterator[None]:
    """What may go wrong in a run becomes a `CliError`. What a user's own teacher raises keeps its stack trace."""
    import torch

    again = f"the same command goes on with {output}"
    try:
        yield
    except KeyboardInterrupt as error:
        raise CliError(f"interrupted; {again}", INTERRUPTED) from error
    except torch.OutOfMemoryError as error:
        raise CliError(f"out of memory: choose a smaller --batch-size; {again}", FAILED) from error
    except ValueError as error:
        raise CliError(_with_options(str(error)), FAILED) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise CliError(f"{output}: {error.strerror}: make room, then {again}", FAILED) from error


def _with_options(message: str) -> str:
    names = {"chunk_s": "chunk", "num_workers": "workers"} | {field.name: field.name for field in fields(TeachOptions)}
    return with_option_names(message, names)


class _Progress:
    """What `ced_model.distillation.teaching.TeachingProgress` describes, on stderr; of the main process only."""

    def __init__(self) -> None:
        self._bar: RunProgress | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def found(self, num_files: int) -> None:
        self._say(f"{num_files:,} files to cut into chunks")
        self._begin(num_files)

    def cut(self, path: str, reason: str | None) -> None:
        if reason is not None:
            self._say(f"{path}: {one_line(reason)}: skipped")
        if self._bar is not None:
            self._bar.count(failed=reason is not None)

    def planned(self, num_inputs: int, num_done: int) -> None:
        self.__exit__()
        if not _is_main_process():
            return
        if num_done:
            self._say(f"{num_done:,} of {num_inputs:,} inputs are there already")
        self._begin(num_inputs - num_done)

    def damaged(self, file: Path, problem: str) -> None:
        self._say(f"{file}: corrupt shard, made anew: {problem}")

    def taught(self, num_inputs: int, audio_s: float) -> None:
        if self._bar is not None:
            self._bar.add_audio(audio_s)
            for _ in range(num_inputs):
                self._bar.count(failed=False)

    def _begin(self, total: int) -> None:
        self._bar = RunProgress(total).__enter__()

    def _say(self, text: str) -> None:
        with self._bar.hidden() if self._bar is not None else nullcontext():
            say(text)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process


def _finish(store: "Store") -> None:
    from accelerate import PartialState
    from rich.filesize import decimal

    from ..distillation.teaching import overhead

    if _is_main_process():
        audio = store.manifest["audio"]
        skipped = f", {audio['num_skipped']:,} files skipped" if audio["num_skipped"] else ""
        say(
            f"{store.path}: {store.num_epochs:,} epochs of {store.num_chunks:,} chunks, {audio['hours']:.3g} h of audio"
            f" in {audio['num_files']:,} files{skipped}"
        )
        num_bytes, share = overhead(store)
        per_input = num_bytes / (store.num_epochs * store.num_chunks)
        say(
            f"{decimal(num_bytes)}, {per_input:.1f} bytes for each chunk and epoch: {share:.2%} of the audio's"
            f" {decimal(audio['bytes'])}"
        )
    PartialState().destroy_process_group()
