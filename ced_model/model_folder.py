# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks a model folder by its JSON files and the header of its weights, without torch."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .bundled import resolve_model
from .hub import ModelNotFoundError, locate_model
from .messages import one_line, printable
from .model_settings import check_agreement, check_front_end, check_model, expected_shapes

CONFIG, PREPROCESSOR, WEIGHTS, INDEX = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
MAX_JSON_BYTES = 64 << 20
MODEL_TYPE = "ced"


class ModelFolderError(ValueError):
    """Why a folder holds no CED model that can be loaded: one line that names the file and the field or tensor."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def open_model(model: str | os.PathLike[str], **options: Any) -> tuple[str, dict[str, Any]]:
    """
    Finds a model, downloads it if it is on the Hub, and checks its folder.

    Args:
        model: a folder, a Hub id, or the name of the bundled model.
        options: what `from_pretrained` takes beside it, such as `revision` or `token`.

    Returns:
        What to pass to `from_pretrained`, which then asks the Hub for nothing any more.

    Raises:
        `ModelNotFoundError`: if there is no such model, or no way to it.
        `ModelFolderError`: if it cannot be loaded.
    """
    folder = locate_model(model, **options)
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(f"{printable(model)} is not a model folder: it has no {CONFIG}.")
    check_model_folder(folder)
    name = resolve_model(model)
    if (local := Path(name).expanduser()).is_dir():
        return str(local), options
    return name, options | {"local_files_only": True} if any(folder.glob("*.safetensors")) else options


def check_model_folder(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Checks the configuration, the front end and the names and shapes of the weights before anything is allocated.

    A folder without a head passes, and so does one whose weights are not in safetensors, or are quantized by another
    library: loading them tells.

    Returns:
        The fields of `config.json`, with defaults.

    Raises:
        `ModelFolderError`: if something is missing, damaged, out of bounds, or does not fit the rest.
        OSError: if a file cannot be read.
    """
    folder = Path(folder)
    stored, model = check_settings(folder)
    if "quantization_config" not in stored and (shapes := read_shapes(folder)):
        _check_shapes(shapes, expected_shapes(model))
    return model


def check_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """As [`check_model_folder`], of the JSON files alone; returns the fields as they are stored, and with defaults."""
    stored = read_json(folder / CONFIG)
    if stored.get("model_type") != MODEL_TYPE:
        kind = str(stored.get("model_type"))[:60]
        raise ModelFolderError(f'{CONFIG} describes a {kind!r} model, not CED: "model_type" must be "{MODEL_TYPE}".')
    try:
        model = check_model(stored)
    except ValueError as error:
        raise ModelFolderError(f"{CONFIG}: {error}") from error
    if (folder / PREPROCESSOR).exists():
        preprocessor = read_json(folder / PREPROCESSOR)
        try:
            check_front_end(preprocessor)
        except ValueError as error:
            raise ModelFolderError(f"{PREPROCESSOR}: {error}") from error
        try:
            check_agreement(stored, preprocessor)
        except ValueError as error:
            raise ModelFolderError(str(error)) from error
    return stored, model


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises [`ModelFolderError`] for anything else."""
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelFolderError(f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MiB.")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ModelFolderError(f"{path.name} is nested too deeply.") from error
    except ValueError as error:  # of JSON, and of bytes that are not text
        raise ModelFolderError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path.name} must hold an object {{…}}, it is a {type(content).__name__}.")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return content


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in safetensors files, from their headers; empty where there are none."""
    from safetensors import SafetensorError, safe_open

    names: Iterable[Any] = [WEIGHTS]
    if not (folder / WEIGHTS).exists():
        if not (folder / INDEX).exists():
            return {}
        places = read_json(folder / INDEX).get("weight_map")
        names = dict.fromkeys(places.values()) if isinstance(places, dict) else []
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ModelFolderError(f"{INDEX} has no `weight_map` of file names in the folder.")
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        try:
            with safe_open(folder / name, framework="numpy") as file:
                shapes |= {tensor: tuple(file.get_slice(tensor).get_shape()) for tensor in file.keys()}
        except FileNotFoundError as error:
            raise ModelFolderError(f"{name} is missing, though {INDEX} names it.") from error
        except SafetensorError as error:
            raise ModelFolderError(f"{name} is damaged: {error}.") from error
    return shapes


def _check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    if not any(name.startswith(("encoder.", "outputlayer.")) for name in found):
        found = {f"encoder.{name}": shape for name, shape in found.items()}  # a bare encoder
    if not any(name.startswith("outputlayer.") for name in found):
        expected = {name: shape for name, shape in expected.items() if name.startswith("encoder.")}
    free = {"encoder.init_bn.num_batches_tracked"}
    absent = [name for name in expected if name not in found and name not in free]
    ours = [name for name in found if name.startswith(("encoder.", "outputlayer."))]
    unknown = [name for name in ours if name not in expected and not name.startswith("encoder.front_end.")]
    misshapen = [
        f"{name} {_shape(found[name])} instead of {_shape(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape and not _is_resized(name, found[name], shape)
    ]
    kinds = {"missing": absent, "unknown": unknown, "of another shape": misshapen}
    problems = [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]
    if problems:
        raise ModelFolderError(f"the weights do not fit {CONFIG}: {'; '.join(problems)}.")


def _is_resized(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether these are time positions, of which loading takes some or makes more."""
    return name == "encoder.time_pos_embed" and found[:-1] == expected[:-1] and len(found) == 4 and found[-1] > 0


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
