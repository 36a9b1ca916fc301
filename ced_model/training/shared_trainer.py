# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The `Trainer` for fine-tuning and distillation."""

import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerState

from ..audio import AudioError
from ..output import FULL
from .run_folder import STATE_FILE

MAX_WORKERS = 16
GROUPED_BATCHES = 32  # number of batches with items sorted by length: more means less padding, but less randomness


class CedTrainer(Trainer):
    """
    transformers' `Trainer`, with random numbers that depend only on seeds and epochs.

    Args:
        sampler: Samples keys of the training data set.
        callbacks: As for `Trainer`; a [`~transformers.ProgressCallback`] replaces the default one.
    """

    def __init__(self, *, sampler: "EpochSampler", callbacks: Sequence[TrainerCallback] = (), **kwargs: Any) -> None:
        self.sampler = sampler
        shown = [callback for callback in callbacks if isinstance(callback, ProgressCallback)]
        kwargs["callbacks"] = [EpochCallback(sampler), *(each for each in callbacks if each not in shown)]
        super().__init__(**kwargs)
        if shown:
            self.remove_callback(PrinterCallback)
            self.remove_callback(ProgressCallback)
            self.add_callback(shown[0])

    def train_from(self, checkpoint: Path | None) -> None:
        """
        Trains to the end, from `checkpoint` if it is not None.

        Raises:
            ValueError: if a clip cannot be read, or a checkpoint cannot be written.
        """
        with one_line_errors():
            if checkpoint is None:
                self.train()
            elif not _has_ended(state := TrainerState.load_from_json(str(checkpoint / STATE_FILE))):
                self.train(resume_from_checkpoint=str(checkpoint))
            else:  # `train` would make one more step
                state.is_world_process_zero = self.is_world_process_zero()
                self.state = state
                best = state.best_model_checkpoint
                use_best = self.args.load_best_model_at_end and best is not None and os.path.isdir(best)
                self._load_from_checkpoint(best if use_best else str(checkpoint))

    def _get_train_sampler(self, train_dataset: Any = None) -> "EpochSampler":
        return self.sampler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Only matrices: not biases, norms (including `init_bn`), positions or the class token."""
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.ndim >= 2 and not re.search(r"pos_embed|cls_token", name)
        ]

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader: Any = super()._get_dataloader(*args, **kwargs)
        # Own seeds for workers: drawn from the global generator, they would change dropout depending on the number of
        # workers and on whether the run was resumed.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return loader


class EpochSampler(Sampler[tuple[int, int]]):
    """
    Samples keys `(epoch, index)` in a random order that depends on the seed and the epoch. Items of a batch have
    similar lengths, to save padding.

    Keys include the epoch, since workers that persist over epochs have copies of the data set.

    Attributes:
        lengths: Lengths of the items, of shape `(items,)`.
        batch_size: Batch size over all processes.
        seed: Seed of the order.
        epoch: Must be set at the beginning of each epoch.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for number in self._order(np.random.default_rng([self.seed, epoch])):
            yield epoch, int(number)

    def _order(self, generator: np.random.Generator) -> np.ndarray:
        # Unlike with transformers' grouping by length, the order of the batches is random: students learn better.
        order = generator.permutation(len(self))
        num_batches, rest = divmod(len(self), self.batch_size)
        batches = order[: len(self) - rest].reshape(num_batches, self.batch_size)
        for start in range(0, num_batches, GROUPED_BATCHES):
            group = batches[start : start + GROUPED_BATCHES].ravel()
            by_length = group[np.argsort(self.lengths[group], kind="stable")]
            batches[start : start + GROUPED_BATCHES] = by_length.reshape(-1, self.batch_size)
        return np.concatenate([generator.permutation(batches).ravel(), order[len(self) - rest :]])


class EpochCallback(TrainerCallback):
    """Sets the `epoch` of a sampler at the beginning of each epoch, which accelerate does not always do."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.sampler.epoch = int(state.epoch or 0)


def _has_ended(state: TrainerState) -> bool:
    """Whether training was finished when a checkpoint was written: after all epochs, or by early stopping."""
    callbacks: Any = state.stateful_callbacks
    return bool(callbacks["TrainerControl"]["args"]["should_training_stop"])


def default_workers() -> int:
    """Number of data loading processes: half of the CPUs, since more would slow down the training."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(1, cpus // (2 * processes)), MAX_WORKERS)


def loading_arguments(workers: int | None) -> dict[str, Any]:
    """`TrainingArguments` for data loading."""
    workers = default_workers() if workers is None else workers
    return {
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "ddp_find_unused_parameters": False,
    }


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Converts errors of a data loading worker, or of a full disk, to a ValueError with one line."""
    show = threading.excepthook

    def show_others(arguments: threading.ExceptHookArgs) -> None:
        if not _is_full(arguments.exc_value):  # TensorBoard raises it again in the main thread
            show(arguments)

    threading.excepthook = show_others
    try:
        yield
    except AudioError as error:  # with the stack of the worker
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ced_model.audio.AudioError: ")) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        from_torch_save = any(name in str(error) for name in ("PytorchStreamWriter", "inline_container"))
        if isinstance(error, RuntimeError) and not from_torch_save:
            raise
        if isinstance(error, OSError) and not _is_full(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(
            f"A checkpoint could not be written: if the disk is full, free some space, then resume. ({reason})"
        ) from error
    finally:
        threading.excepthook = show


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in FULL
