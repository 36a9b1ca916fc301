# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Opens and checks model folders: the JSON files and the headers of the weights, before anything is allocated."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bundled import DEFAULT_MODEL, bundled_folder, resolve_model
from .hub import ModelNotFoundError, locate_model
from .log_mel import FrontEnd
from .messages import printable
from .model_settings import (
    ModelSettings,
    check_agreement,
    check_front_end,
    check_model,
    expected_shapes,
    front_end_of,
    name_labels,
)
from .safetensors_index import (
    ModelFolderError,
    StoredTensor,
    check_finite,
    find_tensors,
    has_safetensors,
    read_json,
)

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
MODEL_TYPE = "ced"


@dataclass(frozen=True)
class ModelFolder:
    """
    The folder of a classifier.

    Attributes:
        name: Its display name: a Hub id, the name of the bundled model, or a folder.
        path: The folder; None for a model in memory.
        settings: Its architecture.
        front_end: Parameters of its front end.
        labels: Names of its classes.
        tensors: Position of its weights in the files, by name.
    """

    name: str
    path: str | None
    settings: ModelSettings
    front_end: FrontEnd
    labels: tuple[str, ...]
    tensors: Mapping[str, StoredTensor] = field(repr=False)

    @property
    def weights_folder(self) -> str:
        """The folder of the weight files, with links resolved."""
        return os.path.dirname(next(iter(self.tensors.values())).file)

    def fingerprint(self) -> str:
        """A checksum of all that scores depend on: architecture, labels, front end and weights."""
        digest = hashlib.sha256(repr((self.settings, self.front_end, self.labels)).encode(errors="surrogatepass"))
        digest.update(b"steps" * self.settings.has_steps)
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
            for values in tensor.chunks():
                digest.update(values.tobytes())
        return digest.hexdigest()[:32]


def open_model(model: str | os.PathLike[str], **hub_options: Any) -> ModelFolder:
    """
    Finds a classifier, downloads it if it is on the Hub, and checks its folder.

    Args:
        model: A folder, a Hub id, or the name of the bundled model.
        hub_options: Options of `from_pretrained` for a Hub repository, such as `revision` or `token`.

    Raises:
        `ModelNotFoundError`: if there is no such model, or it cannot be reached.
        `ModelFolderError`: if it cannot be loaded, has no head, or has weights that are NaN or infinite.
    """
    folder = find_folder(model, **hub_options)
    stored, fields, front_end = check_settings(folder)
    tensors = find_tensors(folder)
    _check_shapes({name: tensor.shape for name, tensor in tensors.items()}, expected_shapes(fields), needs_head=True)
    check_finite(tensors)
    return ModelFolder(
        name=_display_name(model),
        path=str(folder),
        settings=ModelSettings.of(fields),
        front_end=front_end_of(front_end),
        labels=tuple(name_labels(stored.get("id2label"), fields["num_labels"]).values()),
        tensors=tensors,
    )


def find_folder(model: str | os.PathLike[str], **hub_options: Any) -> Path:
    """The folder of a model, downloaded if it is on the Hub; raises a `ModelNotFoundError` if there is none."""
    folder = locate_model(model, **hub_options)
    if not (folder / CONFIG).is_file():
        raise ModelNotFoundError(f"{printable(model) or repr(str(model))} is not a model folder: it has no {CONFIG}.")
    return folder


def _display_name(model: str | os.PathLike[str]) -> str:
    name = os.fspath(model)
    return DEFAULT_MODEL if resolve_model(name) == bundled_folder() else name


def check_model_folder(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Checks the configuration, the front end and the names and shapes of the weights, before anything is allocated.

    A head is not required. Weights that are not in safetensors, or are quantized by another library, are not checked.

    Returns:
        The fields of `config.json`, with defaults.

    Raises:
        `ModelFolderError`: if something is missing, damaged, out of bounds, or inconsistent.
        OSError: if a file cannot be read.
    """
    folder = Path(folder)
    stored, model, _ = check_settings(folder)
    if "quantization_config" not in stored and has_safetensors(folder):
        shapes = {name: tensor.shape for name, tensor in find_tensors(folder).items()}
        _check_shapes(shapes, expected_shapes(model))
    return model


def check_settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Mapping[str, Any]]:
    """
    Does the checks of [`check_model_folder`] on the JSON files only.

    Returns:
        The fields of `config.json` as stored, the same with defaults, and those of the front end.
    """
    stored = read_json(folder / CONFIG)
    if stored.get("model_type") != MODEL_TYPE:
        kind = str(stored.get("model_type"))[:60]
        raise ModelFolderError(f'{CONFIG} describes a {kind!r} model, not CED: "model_type" must be "{MODEL_TYPE}".')
    try:
        model = check_model(stored)
    except ValueError as error:
        raise ModelFolderError(f"{CONFIG}: {error}") from error
    if not (folder / PREPROCESSOR).exists():
        return stored, model, model
    preprocessor = read_json(folder / PREPROCESSOR)
    try:
        front_end = check_front_end(preprocessor)
    except ValueError as error:
        raise ModelFolderError(f"{PREPROCESSOR}: {error}") from error
    try:
        check_agreement(stored, preprocessor)
    except ValueError as error:
        raise ModelFolderError(str(error)) from error
    return stored, model, front_end


def _check_shapes(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], needs_head: bool = False
) -> None:
    if not any(name.startswith(("encoder.", "outputlayer.")) for name in found):
        found = {f"encoder.{name}": shape for name, shape in found.items()}  # a bare encoder
    if not needs_head and not any(name.startswith("outputlayer.") for name in found):
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
    """Whether these are time positions, which are resized when the model is loaded."""
    return name == "encoder.time_pos_embed" and found[:-1] == expected[:-1] and len(found) == 4 and found[-1] > 0


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
