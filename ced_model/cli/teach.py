# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced distill teach`: audio and teachers → a store of their outputs."""

import os
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..messages import count
from . import options
from .completion import complete_model
from .endings import one_line_errors
from .errors import CliError
from .options import COMPUTING, INPUT, OUTPUT, TRAINING, option
from .terminal import one_line, say
from .training_output import is_main_process, leave_group, training_errors

if TYPE_CHECKING:
    from ..training.distillation.store import Store


@one_line_errors
def teach(
    audio: Annotated[list[str] | None, typer.Argument(metavar="AUDIO…", hidden=True)] = None,
    list_file: options.ListFile = None,
    dataset: options.Dataset = None,
    config: options.Config = None,
    split: options.Split = None,
    audio_column: options.AudioColumn = None,
    num_workers: Annotated[
        int | None,
        option(
            INPUT,
            "--workers",
            metavar="N",
            min=0,
            help="Processes that read audio; by default 4 with a GPU, else 0.",
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        option(
            COMPUTING,
            "--teacher",
            "-t",
            metavar="TEACHER",
            help="A teacher. Required. Can be repeated: the mean of their outputs is stored.",
            autocompletion=complete_model,
        ),
    ] = None,
    device: options.Device = None,
    batch_size: Annotated[int, option(COMPUTING, metavar="N", min=1, help="Chunks per batch; by default 16.")] = 16,
    epochs: Annotated[
        int | None,
        option(TRAINING, "--epochs", "-e", metavar="N", min=1, help="Number of augmentations of each chunk. Required."),
    ] = None,
    chunk_s: Annotated[
        float, option(TRAINING, "--chunk", metavar="SECONDS", help="Length of the chunks; by default 10.")
    ] = 10.0,
    max_shift: Annotated[
        float,
        option(TRAINING, metavar="SHARE", help="Maximum circular shift, as a share of the chunk; by default 0.5."),
    ] = 0.5,
    max_time_mask: Annotated[
        int, option(TRAINING, metavar="FRAMES", help="Maximum frames (10 ms) to mask; by default 192.")
    ] = 192,
    max_freq_mask: Annotated[
        int, option(TRAINING, metavar="BINS", help="Maximum mel bins (of 64) to mask; by default 24.")
    ] = 24,
    seed: Annotated[int, option(TRAINING, metavar="N", help="Random seed of the augmentation; by default 0.")] = 0,
    output: Annotated[
        str | None,
        option(
            OUTPUT,
            "--output",
            "-o",
            metavar="STORE",
            help="The folder to write, or that of an interrupted run. Required.",
        ),
    ] = None,
    top_k: Annotated[
        int,
        option(
            OUTPUT,
            "--top-k",
            "-k",
            metavar="N",
            min=1,
            help="Highest-scoring classes to store per chunk; by default 20.",
        ),
    ] = 20,
) -> None:
    """Store the outputs of teachers for your audio.

    AUDIO is folders (searched recursively, without hidden files) and files. They are cut into chunks of 10 s. A shorter
    file is one chunk; the end of a longer one is left out if it is shorter than half a chunk. With --dataset, the audio
    of a data set is first written to files.

    A TEACHER is a model folder, a Hub id (any audio classifier of transformers), or a Python callable as
    module:attribute or path/to/file.py:attribute.

    After an interruption, run the same command again to continue. On several GPUs or machines (with a shared folder):
    accelerate launch -m ced_model distill teach …
    """
    from ..input_list import escape_name, read_list
    from .model import quieten

    for value, advice in (
        (audio or list_file or dataset, "AUDIO: folders and files, --from FILE or --dataset"),
        (teacher, "--teacher: a model folder, a Hub id, or a callable as path/to/file.py:attribute"),
        (epochs, "--epochs: the paper uses 120 for twenty thousand clips, and 10 for two million"),
        (output, "--output STORE: the folder to write"),
    ):
        if not value:
            raise CliError(f"missing {advice}")
    assert teacher is not None and epochs is not None and output is not None
    options.refuse("" if dataset else "needs --dataset", config=config, split=split, audio_column=audio_column)
    paths = list(audio or [])
    for path in paths:
        if not os.path.exists(path):
            raise CliError(f"{escape_name(path)}: there is no such file or folder")
    paths += [] if list_file is None else read_list(list_file)
    if dataset is not None:
        quieten()
        from ..dataset_clips import dataset_files

        paths += dataset_files(dataset, config, split, audio_column, say)
    if not paths:
        raise CliError(f"--from {escape_name(str(list_file))}: the list is empty")
    from ..training.distillation.augmentation import Augmentation
    from ..training.distillation.teaching import teach as teach_store

    quieten()
    with (
        training_errors(output, f"run the same command again to continue {output}"),
        closing(make_progress()) as progress,
    ):
        augmentation = Augmentation(chunk_s, max_shift, max_time_mask, max_freq_mask)
        store = teach_store(
            paths,
            teacher,
            output,
            epochs=epochs,
            augmentation=augmentation,
            top_k=top_k,
            seed=seed,
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
            progress=progress,
        )
    _finish(store)


def make_progress() -> Any:
    """A `TeachingProgress` on stderr. Only the main process has a bar."""
    from ..training.distillation.teaching import TeachingProgress
    from .progress import RunProgress

    class Progress(TeachingProgress):
        bar = RunProgress(0)

        def _begin(self, total: int) -> None:
            self.close()
            if is_main_process():
                self.bar = RunProgress(total).__enter__()

        def _say(self, text: str) -> None:
            with self.bar.hidden():
                say(text)

        def close(self) -> None:
            self.bar.__exit__(None, None, None)

        def found(self, num_files: int) -> None:
            self._say(f"{num_files:,} files to cut into chunks")
            self._begin(num_files)

        def cut(self, path: str, reason: str | None) -> None:
            if reason is not None:
                self._say(f"{path}: {one_line(reason)}: skipped")
            self.bar.count(failed=reason is not None)

        def planned(self, num_inputs: int, num_done: int) -> None:
            if num_done and is_main_process():
                self._say(f"{num_done:,} of {num_inputs:,} inputs exist already")
            self._begin(num_inputs - num_done)

        def damaged(self, problem: str) -> None:
            self._say(f"rewritten: {problem}")

        def taught(self, num_inputs: int, audio_s: float) -> None:
            self.bar.add_audio(audio_s)
            for _ in range(num_inputs):
                self.bar.count(failed=False)

    return Progress()


def _finish(store: "Store") -> None:
    from rich.filesize import decimal

    from ..training.distillation.teaching import overhead

    if is_main_process():
        audio = store.manifest["audio"]
        skipped = f", {count(audio['num_skipped'], 'file')} skipped" if audio["num_skipped"] else ""
        say(
            f"{store.path}: {count(store.num_epochs, 'epoch')} of {count(store.num_chunks, 'chunk')},"
            f" {audio['hours']:.3g} h of audio in {count(audio['num_files'], 'file')}{skipped}"
        )
        num_bytes, share = overhead(store)
        per_input = num_bytes / (store.num_epochs * store.num_chunks)
        say(
            f"{decimal(num_bytes)}, {per_input:.1f} bytes for each chunk and epoch: {share:.2%} of the audio's"
            f" {decimal(audio['bytes'])}"
        )
    leave_group()
