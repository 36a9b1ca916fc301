# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Which model a command runs."""

import json
import logging
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .errors import FAILED, CliError
from .labels import find_rows
from .light import load_module

if TYPE_CHECKING:
    from ced_model import AudioTagger

PUBLISHED_MODELS = (
    "mispeech/ced-tiny (5.5 M parameters, 48.1 mAP)",
    "mispeech/ced-mini (9.6 M, 49.0)",
    "mispeech/ced-small (22 M, 49.6)",
    "mispeech/ced-base (86 M, 50.0)",
)


def choose_model(model: str | None) -> str:
    """The folder or Hub id to load. Costs nothing: what can be seen to be wrong is wrong usage at once."""
    if model is None:
        raise CliError(f"choose a model with --model: {', '.join(PUBLISHED_MODELS)}, or a local folder")
    path = os.path.expanduser(model)
    if os.path.isfile(path):
        raise CliError(f"--model {model}: a file; give a model folder (convert_checkpoint.py makes one of a .pt file)")
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise CliError(f"--model {model}: no model folder, it has no config.json")
        return path
    # A Hub id is `name` or `owner/name`; what else looks like a path is one.
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1 or "\\" in model or not model.strip():
        raise CliError(f"--model {model}: there is no such folder")
    return model


def check_labels(model: str, labels: Iterable[str]) -> None:
    """Raises `CliError` for a class that a local model cannot have, without the cost of loading the model."""
    try:
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        names = list(config.get("id2label", {}).values())
    except (OSError, ValueError, AttributeError):  # not local or damaged: loading it will tell
        return
    audioset = load_module("audioset").AUDIOSET_LABELS
    if len(names) in (0, len(audioset)):  # its own names may be cut, and are then replaced
        names += audioset
    known = {str(name).lower() for name in names}
    for label in labels:
        if label.lower() not in known and config.get("outputdim") == len(config.get("id2label", audioset)):
            similar = [name for _, _, name in find_rows([(-1, "", str(name)) for name in dict.fromkeys(names)], label)]
            hint = f": did you mean {', '.join(map(repr, similar[:5]))}?" if similar else ""
            raise CliError(f"--labels: the model has no class {label!r}{hint}")


def load_tagger(
    model: str, *, device: str | None = None, num_threads: int | None = None, batch_size: int | None = None
) -> "AudioTagger":
    """Loads a model that `choose_model` returned, and says on stderr which one it is."""
    from ced_model import AudioTagger

    _quieten()
    if device is not None:
        _check_device(device)
    try:
        tagger = AudioTagger.from_pretrained(model, device=device, num_threads=num_threads, batch_size=batch_size)
    except Exception as error:  # safetensors, json, torch and the Hub's client all have their own
        raise CliError(f"{model} cannot be loaded: {error}", FAILED) from error
    print(f"model: {model} on {tagger.model.device}", file=sys.stderr)
    return tagger


def _quieten() -> None:
    """Only warnings may come before the line that names the model; downloads show their progress on a terminal."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of each attempt to connect
    if not sys.stderr.isatty():
        disable_progress_bars()


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CliError(f"--device {device}: {str(error).splitlines()[0]}") from error
