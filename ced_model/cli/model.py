# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The model that a command runs."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from ..bundled import DEFAULT_MODEL, bundled_folder, resolve_model
from ..messages import OptionError
from .errors import FAILED, CliError
from .terminal import say

if TYPE_CHECKING:
    from ..tagger import AudioTagger


def choose_model(model: str | None) -> str:
    """
    The folder, Hub id or bundled model to load, by default the folder of the bundled one.

    Raises:
        OptionError: for a local path that is not a model folder.
    """
    if model is None:
        return bundled_folder()
    if os.path.isfile(model):
        raise OptionError("model", model, "a model folder; for a checkpoint file use ced convert")
    if os.path.isdir(model):
        if not os.path.isfile(os.path.join(model, "config.json")):
            raise OptionError("model", model, "a model folder; this one has no config.json")
        return model
    # A Hub id is `name` or `owner/name`; anything else is a path.
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1 or "\\" in model or not model.strip():
        raise OptionError("model", model, "a model folder or Hub id; there is no such folder")
    return model


def load_tagger(model: str | None, **options: Any) -> "AudioTagger":
    """Loads a model, by default the bundled one, and prints its name and engine on stderr."""
    name = choose_model(model)
    quieten()
    from ..tagger import AudioTagger

    try:
        tagger = AudioTagger(name, **options)
    except OptionError:
        raise
    except (OSError, ValueError) as error:
        raise CliError(f"{shown_name(name)} cannot be loaded: {error}", FAILED) from error
    announce(tagger)
    return tagger


def announce(tagger: "AudioTagger") -> None:
    """The first line on stderr: model, engine, compute type and device."""
    note = " (small, bundled; for best accuracy: --model mispeech/ced-base)" if tagger.name == DEFAULT_MODEL else ""
    say(f"model: {tagger.name}{note}, {tagger.engine} {tagger.compute_type} on {tagger.device}")


def shown_name(model: str) -> str:
    """The name to show for the result of `choose_model`: that of the bundled model instead of its folder."""
    return DEFAULT_MODEL if resolve_model(model) == bundled_folder() else model


def quieten() -> None:
    """Disables messages and progress bars of libraries, except download progress on a terminal."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # no warning for each retry
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if sys.modules.get("transformers") is not None:
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
