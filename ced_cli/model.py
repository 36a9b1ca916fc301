# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Which model a command runs."""

import difflib
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import FAILED, CliError
from .labels import find_rows
from .light import load_module
from .terminal import say

if TYPE_CHECKING:
    from ced_model import AudioTagger


def choose_model(model: str | None) -> str:
    """
    The folder, Hub id or bundled model to load, by default the folder of the bundled one, whatever lies here.

    Costs nothing: what can be seen to be wrong is wrong usage at once.
    """
    if model is None:
        return load_module("bundled").bundled_folder()
    path = os.path.expanduser(model)
    if os.path.isfile(path):
        raise CliError(f"--model {model}: a file; give a model folder (convert_checkpoint.py makes one of a .pt file)")
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise CliError(f"--model {model}: no model folder, it has no config.json")
        try:
            load_module("model_folder").check_model_folder(path)
        except ValueError as error:
            raise CliError(f"{shown_name(model)} cannot be loaded: {error}", FAILED) from error
        return path
    # A Hub id is `name` or `owner/name`; what else looks like a path is one.
    if model.startswith((".", "~", os.sep)) or model.count("/") > 1 or "\\" in model or not model.strip():
        raise CliError(f"--model {model}: there is no such folder")
    return model


def check_labels(model: str, labels: Iterable[str]) -> None:
    """Raises `CliError` for a class that a local model cannot have, without the cost of loading the model."""
    config = _local_settings(model, "config.json")
    table = config.get("id2label", {})
    if not config or not isinstance(table, dict):  # not local or damaged: loading it will tell
        return
    names = [str(name) for name in table.values()]
    audioset = load_module("audioset").AUDIOSET_LABELS
    if len(names) in (0, len(audioset)):  # its own names may be cut, and are then replaced
        names += audioset
    if config.get("outputdim") == len(table or audioset):
        check_known(list(dict.fromkeys(names)), labels)


def parse_channel(text: str | None) -> str | int:
    """The `channel` of `AudioTagger` for `--channel`. Raises `CliError` if it is none."""
    if text in (None, "mix", "loudest"):
        return text or "mix"
    if not re.fullmatch("[0-9]{1,6}", text):
        raise CliError(f"--channel {text}: expected mix, loudest or the number of a channel from 0")
    return int(text)


def check_known(names: Sequence[str], labels: Iterable[str]) -> None:
    """Raises `CliError` for a label that is not one of a model's `names`."""
    known = {name.lower() for name in names}
    for label in labels:
        if label.lower() in known:
            continue
        if _joins_known(label.lower(), known):
            raise CliError(f"--labels: the model has no class {label!r}: repeat --labels for each class")
        similar = [name for _, _, name in find_rows([(-1, "", name) for name in names], label)]
        close = difflib.get_close_matches(label.lower(), known)
        similar = list(dict.fromkeys([*similar, *(name for name in names if name.lower() in close)]))
        if similar:
            hint = f": did you mean {', '.join(map(repr, similar[:5]))}?"
        elif set(load_module("audioset").AUDIOSET_LABELS) <= set(names):
            hint = "; `ced labels` shows all"
        else:
            hint = f"; it has {', '.join(map(repr, names[:5]))}{', …' if len(names) > 5 else ''}"
        raise CliError(f"--labels: the model has no class {label!r}{hint}")


def _joins_known(text: str, known: Collection[str]) -> bool:
    """Whether `text` is known names with commas between them; names have commas, too."""
    return text in known or any(
        text[:position].strip() in known and _joins_known(text[position + 1 :].strip(), known)
        for position, character in enumerate(text)
        if character == ","
    )


def check_window(model: str, window_s: float | None) -> None:
    """Raises `CliError` for windows that are too long for a local model, without the cost of loading the model."""
    config = _local_settings(model, "config.json")
    if window_s is None or not config:
        return
    config |= _local_settings(model, "preprocessor_config.json")
    try:
        first = 0 if config.get("center", True) else config.get("n_fft", 512)
        samples = first + config.get("target_length", 1012) * config.get("hop_size", 160) - 1
        rate = config.get("sampling_rate", 16000)
        is_too_long, max_window_s = round(window_s * rate) > samples, samples / rate
    except (TypeError, ArithmeticError):  # damaged: loading it will tell
        return
    if is_too_long:
        raise CliError(f"--window {window_s:g}: this model looks at windows of up to {max_window_s:g} seconds")


def _local_settings(model: str, file_name: str) -> dict[str, Any]:
    """What a JSON file of a model folder says; nothing if there is no such file, or something else in it."""
    folder = load_module("bundled").resolve_model(model)
    try:
        with open(os.path.join(folder, file_name), encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def check_runtime(runtime: str | None, quantize: str | None, device: str | None = None) -> None:
    """Raises `CliError` for a runtime that is unknown or not installed, and for a combination that there is not."""
    formats = load_module("runtimes/formats")
    try:
        formats.choose_for_tagger(runtime or formats.TORCH, quantize, device)
    except ValueError as error:
        raise CliError(str(error)) from error
    except ImportError as error:
        raise CliError(str(error), FAILED) from error


def load_tagger(
    model: str,
    *,
    device: str | None = None,
    num_threads: int | None = None,
    batch_size: int | None = None,
    runtime: str | None = None,
    quantize: str | None = None,
) -> "AudioTagger":
    """Loads a model that `choose_model` returned, and says on stderr which one it is and what runs it."""
    check_runtime(runtime, quantize, device)
    from ced_model import AudioTagger

    quieten()
    if device is not None:
        _check_device(device)
    is_exported = runtime not in (None, "torch")
    sizes: dict[str, Any] = {"num_threads": num_threads, "batch_size": batch_size}
    try:
        tagger = AudioTagger.from_pretrained(model, device="cpu" if is_exported else device, **sizes)
    except Exception as error:  # safetensors, json, torch and the Hub's client all have their own
        raise CliError(f"{model} cannot be loaded: {error}", FAILED) from error
    runs = f", {runtime}{f' {quantize}' if quantize else ''}" if is_exported else ""
    say(f"model: {shown_name(model)}{_note(model)} on {tagger.model.device}{runs}")
    if not is_exported:
        return tagger
    try:  # now, so that what is said of an export comes behind the line that names the model
        return AudioTagger(tagger.model, tagger.feature_extractor, runtime=str(runtime), quantize=quantize, **sizes)
    except (OSError, RuntimeError) as error:
        raise CliError(f"{model} cannot be run by {runtime}: {error}", FAILED) from error


def shown_name(model: str) -> str:
    """What a model that `choose_model` returned is called: the bundled one by its name, not by its folder."""
    return load_module("bundled").DEFAULT_MODEL if _is_bundled(model) else model


def _note(model: str) -> str:
    """That a model is the bundled one, and that there are better ones."""
    return " (small, bundled; --model mispeech/ced-mini knows more)" if _is_bundled(model) else ""


def _is_bundled(model: str) -> bool:
    bundled = load_module("bundled")
    return bundled.resolve_model(model) == bundled.bundled_folder()


def quieten() -> None:
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
