# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that a command runs."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from ..bundled import DEFAULT_MODEL, bundled_folder, resolve_model
from ..engines import EngineError, choose_engine
from .errors import FAILED, CliError
from .terminal import say

if TYPE_CHECKING:
    from .. import AudioTagger


def choose_model(model: str | None) -> str:
    """
    The folder, Hub id or bundled model to load, by default the folder of the bundled one, whatever lies here.

    Reads nothing: what can be seen to be wrong is wrong usage at once.
    """
    if model is None:
        return bundled_folder()
    path = os.path.expanduser(model)
    if os.path.isfile(path):
        raise CliError(f"--model {model}: a file; give a model folder (convert_checkpoint.py makes one of a .pt file)")
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise CliError(f"--model {model}: not a model folder, it has no config.json")
        return path
    # A Hub id is `name` or `owner/name`; what else looks like a path is one.
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1 or "\\" in model or not model.strip():
        raise CliError(f"--model {model}: there is no such folder")
    return model


def parse_channel(channel: str | None) -> str | int:
    """The value of `--channel` as the library takes it."""
    from ..audio import check_channel

    if channel is None:
        return "mix"
    return check_channel(int(channel) if channel.isdigit() else channel)


def load_tagger(
    model: str,
    *,
    engine: str | None = None,
    compute_type: str | None = None,
    device: str | None = None,
    num_threads: int | None = None,
    batch_size: int | None = None,
) -> "AudioTagger":
    """Loads a model that `choose_model` returned, and prints on stderr which one it is and what runs it."""
    quieten()
    choose_engine(engine or "auto", compute_type, device)  # wrong options are wrong usage
    from .. import AudioTagger

    options: dict[str, Any] = {"engine": engine or "auto", "compute_type": compute_type, "device": device}
    try:
        tagger = AudioTagger(model, num_threads=num_threads, batch_size=batch_size, **options)
    except EngineError as error:
        raise CliError(str(error), FAILED) from error
    except (OSError, ValueError) as error:
        raise CliError(f"{shown_name(model)} cannot be loaded: {error}", FAILED) from error
    say(f"model: {shown_name(model)}{_note(model)}, {tagger.engine} {tagger.compute_type} on {tagger.device}")
    return tagger


def shown_name(model: str) -> str:
    """The name of a model that `choose_model` returned: the bundled one has a name, not a folder."""
    return DEFAULT_MODEL if _is_bundled(model) else model


def _note(model: str) -> str:
    return " (small, bundled; for best accuracy: --model mispeech/ced-base)" if _is_bundled(model) else ""


def _is_bundled(model: str) -> bool:
    return resolve_model(model) == bundled_folder()


def quieten() -> None:
    """Only warnings may come before the line that names the model; downloads show their progress on a terminal."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of each attempt to connect
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
