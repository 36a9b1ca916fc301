# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Exports that taggers run: made once for a model, its options and the versions of what makes them, and kept."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from filelock import FileLock, Timeout
from huggingface_hub import cached_assets_path
from transformers.utils import logging

from ..feature_extraction_ced import CedFeatureExtractor
from ..forking import after_fork
from ..modeling_ced import CedForAudioClassification
from . import LoadedExport, load_export
from .formats import Choice, versions

logger = logging.get_logger(__name__)

LAYOUT = 2  # of what is kept; another number leaves everything that was kept before alone
CONTENTS_FILE = "contents.json"  # name and size of each file; without it, or with another size, an export is not whole
# Settings that say where a model comes from, not what it computes.
ORIGIN = ("_name_or_path", "architectures", "auto_map", "dtype", "transformers_version")

_EXPORTING = threading.Lock()  # exporters redirect the standard streams of the whole process


@after_fork
def _renew_lock() -> None:
    global _EXPORTING
    _EXPORTING = threading.Lock()


def open_cached(
    model: CedForAudioClassification, feature_extractor: CedFeatureExtractor, choice: Choice, num_threads: int | None
) -> tuple[Path, LoadedExport]:
    """
    Opens the export of a model, which is made and verified first if it is not there yet.

    Processes may do this at the same time: one makes the export, the others wait for it. An export that is damaged is
    made again.

    Returns:
        The folder of the export, and the export.

    Raises:
        OSError: if the folder of the cache cannot be written to.
        RuntimeError: if the model cannot be exported, or the export differs from it by too much.
    """
    folder = _folder(model, feature_extractor, choice)
    export = _open_whole(folder, num_threads)
    if export is None:
        with _locked(folder):
            export = _open_whole(folder, num_threads)  # another process may just have made it
            if export is None:
                _make(folder, model, feature_extractor, choice)
                export = load_export(folder, num_threads=num_threads)
    return folder, export


def describe(choice: Choice) -> str:
    """Such as `onnx int8`."""
    return f"{choice.format.value} {choice.quantization.value}" if choice.quantization else choice.format.value


def _folder(model: CedForAudioClassification, extractor: CedFeatureExtractor, choice: Choice) -> Path:
    """Where the export of a model is or will be, by all that makes it what it is."""
    settings: list[Any] = [
        {name: value for name, value in config.to_dict().items() if name not in ORIGIN}
        for config in (model.config, extractor)
    ]
    # What is no weight: other layers, and which adapters of PEFT are active, how strongly.
    adapters = [
        [name, *(getattr(module, field, None) for field in ("active_adapters", "disable_adapters", "scaling"))]
        for name, module in model.named_modules()
        if hasattr(module, "active_adapters")
    ]
    settings += [str(model), adapters]
    about = [LAYOUT, choice, versions(choice), f"{type(model).__module__}.{type(model).__qualname__}", *settings]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    # The Hub's client knows where the user wants such things to be, but only reads the variable when it is imported.
    place = os.environ.get("HF_ASSETS_CACHE")
    kind = "float32" if choice.quantization is None else choice.quantization.value
    with _advice():
        assets = cached_assets_path("ced_model", "exports", choice.format.value, assets_dir=place)
    return assets / f"{kind}-{digest.hexdigest()[:32]}"


def _open_whole(folder: Path, num_threads: int | None) -> LoadedExport | None:
    """The export, or None if it is missing, lacks a part, or cannot be opened."""
    try:
        contents = json.loads((folder / CONTENTS_FILE).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in contents.items()):
            return None
        return load_export(folder, num_threads=num_threads)
    except Exception as error:  # each runtime has its own for a damaged file
        if folder.exists():
            logger.info(f"{folder} cannot be opened: {error}")
        return None


def _make(folder: Path, model: CedForAudioClassification, extractor: CedFeatureExtractor, choice: Choice) -> None:
    """Exports a model beside `folder`, then gives it its place in one step. The caller holds the lock of `folder`."""
    from ..exporting import export_model

    logger.warning(f"exporting to {describe(choice)}, once: the export is kept for later runs ...")
    for abandoned in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed: nobody else is here
        shutil.rmtree(abandoned, ignore_errors=True)
    with _advice(), _EXPORTING, TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as workplace:
        export = Path(workplace, "export")
        try:
            export_model(
                model,
                export,
                feature_extractor=extractor,
                format=choice.format,
                input=choice.input,
                quantize=choice.quantization,
                model_name=Path(model.config.name_or_path or "").name or "ced",
            )
        except OSError:
            raise
        except Exception as error:  # exporters have their own, of many kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RuntimeError(f"the export to {describe(choice)} failed: {reason[:300]}") from error
        sizes = {path.name: path.stat().st_size for path in export.iterdir()}
        (export / CONTENTS_FILE).write_text(json.dumps(sizes), encoding="utf-8")
        _flush(export)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one
        os.replace(export, folder)


def _flush(folder: Path) -> None:
    """Brings files to the disk, lest they be empty under their final name after a power cut."""
    for path in folder.iterdir():
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes, and other threads, from making the same export."""
    lock = FileLock(f"{folder}.lock")
    with _advice():
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("another process exports the same model: waiting for it ...")
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _advice() -> Iterator[None]:
    """Says of errors of the file system what to do about them."""
    try:
        yield
    except (OSError, ValueError) as error:  # the latter by the Hub's client, for a file in the way of a folder
        raise OSError(
            f"the export cannot be kept: {error}; name another folder for such files in the environment variable"
            " HF_ASSETS_CACHE"
        ) from error
