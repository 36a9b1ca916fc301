# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Which model a command runs."""

import os
import sys
from typing import TYPE_CHECKING

from .errors import FAILED, CliError

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


def load_tagger(
    model: str, *, device: str | None = None, num_threads: int | None = None, batch_size: int = 8
) -> "AudioTagger":
    """Loads a model that `choose_model` returned, and says on stderr which one it is."""
    from ced_model import AudioTagger

    try:
        tagger = AudioTagger.from_pretrained(model, device=device, num_threads=num_threads, batch_size=batch_size)
    except Exception as error:  # safetensors, json, torch and the Hub's client all have their own
        raise CliError(f"{model} cannot be loaded: {error}", FAILED) from error
    print(f"model: {model} on {tagger.model.device}", file=sys.stderr)
    return tagger
