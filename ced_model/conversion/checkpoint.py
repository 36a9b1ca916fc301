# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads original checkpoints and Hub repositories as tensors with their names on the Hub, without running code."""

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..hub import PUBLISHED_MODELS, ModelNotFoundError, locate_model
from ..messages import one_line
from ..model_folder import check_settings
from ..zenodo import sha256_of

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
DECODER_NAME = re.compile(r"(decoder|mask_token)")  # further tensors in files of masked autoencoders


class ConversionError(ValueError):
    """Raised if a checkpoint cannot be converted. The message is one line with the reason and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))  # contains names of files and tensors


@dataclass(frozen=True)
class Checkpoint:
    """The content of a source: tensors with their names on the Hub, and information about the model."""

    tensors: dict[str, torch.Tensor]
    source_names: dict[str, str]  # Hub name -> name in the source, for messages
    dropped: tuple[str, ...]  # decoder tensors of a masked autoencoder
    settings: Mapping[str, Any]  # a training checkpoint's "config"
    folder: Path | None  # of a Hub repository, with its config.json
    description: str  # one Markdown sentence for the model card
    hub_id: str | None = None
    published: str | None = None  # "ced-tiny", … if the source is verified to be that model

    @property
    def has_head(self) -> bool:
        return any(name.startswith("outputlayer.") for name in self.tensors)


def read_checkpoint(source: str | os.PathLike[str]) -> Checkpoint:
    """Reads a `.pt` file, a Hub folder or a Hub id; raises a [`ConversionError`] if it is missing or invalid."""
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, f"the model folder `{path.absolute().name}`.", None)
    if path.exists():
        return _read_file(path)
    name = os.fspath(source)
    if name.count("/") == 1 and not name.endswith(CHECKPOINT_SUFFIXES):
        try:
            folder = locate_model(name)
        except ModelNotFoundError as error:
            raise ConversionError(str(error)) from error
        checkpoint = _read_folder(folder, f"[{name}](https://huggingface.co/{name}).", name)
        return replace(checkpoint, published=name.removeprefix("mispeech/") if name in PUBLISHED_MODELS else None)
    raise ConversionError(f"{name} does not exist: give a .pt file, a model folder, or a Hub id such as user/model.")


def _read_folder(folder: Path, description: str, hub_id: str | None) -> Checkpoint:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ConversionError(f"{folder} has no {name}: a model folder needs config.json and model.safetensors.")
    try:
        check_settings(folder)
    except ValueError as error:
        raise ConversionError(f"{folder}: {error}") from error
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ConversionError(f"{folder / 'model.safetensors'} cannot be read: {one_line(error)}") from error
    return _make_checkpoint(tensors, {}, folder, description, hub_id)


def _read_file(path: Path) -> Checkpoint:
    if path.suffix == ".safetensors":
        raise ConversionError(f"{path} is one file of a model folder: give the folder, which also has the config.json.")
    content = _load_pickle(path)
    settings: Any = {}
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        settings = content.get("config")
        content = content["model"]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in content.items()
    ):
        raise ConversionError(
            f"{path} has neither a state dict (names and tensors) nor one under 'model': save model.state_dict()."
        )
    description = f"`{path.name}`, SHA-256 `{sha256_of(path)}`."
    settings = settings if isinstance(settings, Mapping) else {}
    return _make_checkpoint(dict(content), settings, None, description, None)


def _load_pickle(path: Path) -> Any:
    """Loads tensors and plain Python data from a file, without running code."""
    try:
        _check_zip(path)
        # torch raises many types of exceptions, with long messages that advise unsafe loading.
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {one_line(error)}") from error
    except pickle.UnpicklingError as error:
        objects = _objects_beside_tensors(path, error)
        if not objects:
            raise ConversionError(_not_a_checkpoint(path)) from error
        raise ConversionError(
            f"{path} contains Python objects ({', '.join(objects)}), which could run code: if you trust the file, save"
            " only the model's state_dict() and convert that."
        ) from error
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ConversionError(_not_a_checkpoint(path)) from error


def _not_a_checkpoint(path: Path) -> str:
    return f"{path} is damaged or not a PyTorch checkpoint: if it was downloaded, download it again."


def _check_zip(path: Path) -> None:
    """Raises a ValueError if a part of the archive is damaged; torch.load does not verify checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            try:
                damaged = archive.testzip()
            except zipfile.BadZipFile as error:
                raise ValueError(str(error)) from error
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")


def _objects_beside_tensors(path: Path, error: pickle.UnpicklingError) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip archive, or it cannot be parsed: torch's message has the first object
        return re.findall(r"GLOBAL ([\w.]+) was not an allowed global", str(error))[:1]


def _make_checkpoint(
    named: dict[str, torch.Tensor],
    settings: Mapping[str, Any],
    folder: Path | None,
    description: str,
    hub_id: str | None,
) -> Checkpoint:
    tensors: dict[str, torch.Tensor] = {}
    source_names: dict[str, str] = {}
    dropped = []
    for name, tensor in named.items():
        plain = name.removeprefix("encoder.")
        if plain.startswith("front_end."):  # window and filterbank are not weights
            continue
        if DECODER_NAME.match(plain):
            dropped.append(name)
            continue
        hub_name = (
            plain if plain.startswith("outputlayer.") else "encoder." + re.sub(r"^init_bn\.1\.", "init_bn.", plain)
        )
        if hub_name in tensors:
            raise ConversionError(
                f"both {source_names[hub_name]} and {name} map to the tensor {hub_name}: keep one of them."
            )
        tensors[hub_name] = tensor
        source_names[hub_name] = name
    return Checkpoint(tensors, source_names, tuple(dropped), settings, folder, description, hub_id)
