# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced finetune`: labelled clips → a model folder."""

import logging
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .errors import FAILED, INTERRUPTED, WRONG_USAGE, CliError
from .evaluate import table_lines
from .model import choose_model, quieten
from .terminal import put, say
from .training_options import parse_settings, split_settings
from .training_output import is_main_process, make_progress, with_option_names

if TYPE_CHECKING:
    from ..training.finetuning import Finetuned, FinetuningOptions

INSTALL_TRAIN = 'pip install "ced_model[train]"'
INSTALL_LORA = 'pip install "ced_model[lora]"'
LIBRARIES = {"accelerate": "accelerate", "datasets": "datasets", "sklearn": "scikit-learn"}

# Names of the library, where they are not those of the options with a - for each _.
OPTION_NAMES = {"crop_s": "crop", "output_dir": "output", "training_arguments": "set"}


@dataclass(frozen=True)
class FinetuneOptions:
    """The options of `ced finetune`, named as on the command line; None where they were not given."""

    model: str | None = None
    output: str | None = None
    validation: str | None = None
    validation_share: float | None = None
    split: str | None = None
    audio_root: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    separator: str = ";"
    multi_label: bool = False
    train: str | None = None
    lora: int | None = None
    epochs: float | None = None
    patience: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    encoder_learning_rate: float | None = None
    class_weights: str | None = None
    crop: float | None = None
    mixup: float | None = None
    masks: bool = False
    seed: int | None = None
    settings: tuple[str, ...] = ()
    device: str | None = None
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False


def finetune_model(data: str, options: FinetuneOptions) -> None:
    """
    Fine-tunes a model on a folder or table of labelled clips.

    Raises:
        CliError: for wrong usage, and where it cannot go on.
    """
    model, output = _checked_usage(data, options)
    from ..training.finetuning import finetune

    with _one_line_failures(WRONG_USAGE):
        finetuning_options = _finetuning_options(options)
    _quieten()
    if options.threads is not None:
        import torch

        torch.set_num_threads(options.threads)
    with _one_line_failures(FAILED):
        done = finetune(
            data,
            output,
            model=model,
            validation=options.validation,
            options=finetuning_options,
            reading=_reading(options),
            training_arguments=parse_settings(options.settings),
            resume=options.resume,
            overwrite=options.overwrite,
            callbacks=[make_progress(_epoch_line)],
            say=say,
        )
    if is_main_process():
        put(*_report(done, output))


def _checked_usage(data: str, options: FinetuneOptions) -> tuple[str, str]:
    """Model and output. Raises `CliError` for what can be seen to be wrong without the cost of imports."""
    model = choose_model(options.model)
    if options.output is None:
        raise CliError("choose with --output DIR where to write the model")
    for flag, path in (("", data), ("--validation ", options.validation)):
        if path is not None and "://" in path:
            raise CliError(f"{flag}{path}: labelled clips are read from local files only; download them first")
        if path is not None and not os.path.exists(os.path.expanduser(path)):
            raise CliError(f"{flag}{path!r}: there is no such file or folder")
    if options.validation is not None and options.validation_share is not None:
        raise CliError("--validation gives the clips, so --validation-share has none to hold out: leave one out")
    if options.train is not None and not re.fullmatch(r"head|all|last:[1-9]\d*", options.train):
        raise CliError(f"--train {options.train}: expected head, all, or last:K such as last:4")
    if options.lora is not None and options.train == "head":
        raise CliError("--lora adapts the encoder, and --train head leaves it as it is: leave one out")
    if options.class_weights not in (None, "balanced", "none"):
        raise CliError(f"--class-weights {options.class_weights}: expected balanced or none")
    split_settings(options.settings)
    missing = [package for module, package in LIBRARIES.items() if find_spec(module) is None]
    if missing:
        raise CliError(f"fine-tuning needs {' and '.join(missing)}: {INSTALL_TRAIN}", FAILED)
    if options.lora is not None and find_spec("peft") is None:
        raise CliError(f"--lora needs peft: {INSTALL_LORA}", FAILED)
    return model, os.path.expanduser(options.output)


def _finetuning_options(options: FinetuneOptions) -> "FinetuningOptions":
    from ..training.finetuning import FinetuningOptions

    given = {
        field.name: getattr(options, OPTION_NAMES.get(field.name, field.name)) for field in fields(FinetuningOptions)
    }
    return FinetuningOptions(**{name: value for name, value in given.items() if value is not None})


def _reading(options: FinetuneOptions) -> dict[str, Any]:
    reading: dict[str, Any] = {
        "split": options.split,
        "audio_root": options.audio_root,
        "path_column": options.path_column,
        "label_column": options.label_column,
        "separator": options.separator,
    }
    if options.multi_label:
        reading["problem_type"] = "multi_label_classification"
    return {name: value for name, value in reading.items() if value is not None}


@contextmanager
def _one_line_failures(exit_code: int) -> Iterator[None]:
    """What goes wrong fails the command with one line, with options named as on the command line."""
    from safetensors import SafetensorError

    try:
        yield
    except (ValueError, ImportError) as error:
        raise CliError(_with_option_names(str(error)).rstrip("."), exit_code) from error
    except OSError as error:
        if error.errno is not None or not str(error):
            raise
        raise CliError(str(error).rstrip("."), FAILED) from error  # no such model, or no way to it
    except (RuntimeError, SafetensorError) as error:  # torch's, such as that memory is full, or the disk
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CliError(f"training failed: {message}", FAILED) from error
    except KeyboardInterrupt as error:
        raise CliError("interrupted; --resume goes on from the last checkpoint", INTERRUPTED) from error


def _with_option_names(message: str) -> str:
    names = {name: name for name in re.findall(r"`(\w+)(?:=[^`]*)?`", message)} | OPTION_NAMES
    return re.sub(r"\b(resume|overwrite) it\b", r"--\1", with_option_names(message, names))


def _quieten() -> None:
    """Leaves out what says nothing about the run."""
    quieten()
    # Checkpoints that are written within a second cannot be ordered by time, and are ordered by number.
    trainer_utils = logging.getLogger("transformers.trainer_utils")
    trainer_utils.addFilter(lambda record: "mtime may not be reliable" not in record.getMessage())


def _epoch_line(state: Any, loss: float | None, metrics: dict[str, float], rate: float) -> str:
    parts = [f"epoch {state.epoch:.4g} of {state.num_train_epochs:g}"]
    figures = {"loss": loss, "validation loss": metrics.get("eval_loss")}
    figures |= {name: metrics.get(f"eval_{name}") for name in ("top_1", "mAP")}
    return "  ".join(parts + [f"{name} {value:.3f}" for name, value in figures.items() if value is not None])


def _report(done: "Finetuned", output: str) -> Iterator[str]:
    """What the command ends with on stdout: the validation figures, and what can be done with the model."""
    if done.evaluation is not None:
        yield from table_lines(done.evaluation)
        yield ""
    model = shlex.quote(output)
    stopped = f", stopped after {done.epochs:.4g}" if done.epochs > done.best_epoch else ""
    yield f"wrote {model}: {len(done.labels)} classes, weights of epoch {done.best_epoch:.4g}{stopped}"
    if done.held_out is not None:
        clips = os.path.join(os.path.dirname(os.path.normpath(output)), *done.held_out.parts[-2:])
        yield f"evaluate it again: ced evaluate {shlex.quote(clips)} --model {model}"
    yield f"tag with it:       ced tag FILES --model {model}"
