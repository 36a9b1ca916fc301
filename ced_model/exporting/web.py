# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
A page that tags audio in the browser, as a folder for any web server.

The source of the page is in `page/`. It runs `model.onnx` with ONNX Runtime Web. The weights are the model's own
safetensors files.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..model_folder import ModelFolder
from ..recordings import find_recordings
from ..safetensors_index import INDEX_FILE, WEIGHTS_FILE, StoredTensor, read_header, read_json
from .formats import Choice
from .web_runtime import PAGE, Runtime

UNREADABLE = {"F64", "BF16"}  # ONNX Runtime Web cannot read these; they are converted to float32
SOUNDS = ("crow", "guitar", "tabla")  # recordings to try; more would enlarge the download
NOT_FETCHED = ("README.md", "labels.csv", "package.json", "package-lock.json", "LICENSE")


def weight_files(model: ModelFolder, choice: Choice) -> list[str]:
    """The weight files to copy unchanged; none if the weights are stored in the graph."""
    if choice.format != "web" or choice.compute_type != "float32" or model.path is None:
        return []
    if any(tensor.dtype in UNREADABLE for tensor in model.tensors.values()):
        return []
    if Path(model.path, WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    return sorted(set(read_json(Path(model.path, INDEX_FILE))["weight_map"].values()))


def copy_weights(model: ModelFolder, names: list[str], folder: Path) -> dict[str, StoredTensor]:
    """Copies weight files (links are followed). Returns the tensors in the copies by name."""
    tensors: dict[str, StoredTensor] = {}
    for name in names:
        shutil.copyfile(Path(str(model.path), name), folder / name)
        tensors |= read_header(folder / name)
    return tensors


def write_page(folder: Path, metadata: Mapping[str, Any], runtime: Runtime) -> None:
    """Adds the page and its runtime to the model's files, and lists all files in `page/files.js`."""
    shutil.copytree(PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("package*.json", "node_modules"))
    runtime.copy(folder / "runtime")
    (folder / "sounds").mkdir()
    for sound, path in find_recordings().items():
        if sound in SOUNDS:
            shutil.copyfile(path, folder / "sounds" / f"{sound}.flac")
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, value in (("{model}", metadata["model"]), ("{version}", metadata["versions"]["ced_model"])):
        text = text.replace(name, value)
    readme.write_text(text, encoding="utf-8")
    files = json.dumps(_list_files(folder), indent=1)
    (folder / "page" / "files.js").write_text(f"self.CED_FILES = {files};\n", encoding="utf-8")


def _list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Sizes and checksums of the files that a browser fetches, by path."""
    listed = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.endswith(NOT_FETCHED) and name not in ("sw.js", "page/files.js"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            listed[name] = {"bytes": os.path.getsize(path), "sha256": digest}
    return listed
