# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a copy of a model folder with another last layer, without torch."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .custom_code import AUTO_MAP, CODE_FILES, CUSTOM_PIPELINES, EXTRACTOR_AUTO_MAP
from .log_mel import FrontEnd
from .model_files import write_handler
from .model_folder import CONFIG, PREPROCESSOR, ModelFolder, open_model, read_json
from .safetensors_index import TYPES, WEIGHTS_FILE, StoredTensor

WEIGHT, BIAS = "outputlayer.1.weight", "outputlayer.1.bias"


def head_features(model: ModelFolder, embeddings: np.ndarray) -> np.ndarray:
    """Inputs of the head's linear layer for embeddings `(rows, embed_dim)`: their LayerNorm, float32."""
    weight, bias = (model.tensors[f"outputlayer.0.{name}"].read() for name in ("weight", "bias"))
    values = np.asarray(embeddings, np.float32)
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.sqrt(values.var(axis=1, keepdims=True) + 1e-5) * weight + bias


def write_with_head(
    source: ModelFolder,
    folder: Path,
    weight: np.ndarray,
    bias: np.ndarray,
    labels: Sequence[str],
    problem_type: str,
    readme: str,
) -> None:
    """
    Writes a model folder into an empty `folder`, and opens it to check it.

    Args:
        source: The model that everything but the last layer is copied from.
        weight, bias: The last layer, of shape `(classes, embed_dim)` and `(classes,)`; stored in the dtype of the
            source's.
        labels: The names of the classes.
        problem_type: As in `config.json`.
        readme: The model card.
    """
    assert source.path is not None
    config = read_json(Path(source.path, CONFIG))
    for name in ("num_labels", "outputdim"):
        config.pop(name, None)
    config |= {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "outputdim": len(labels),
        "problem_type": problem_type,
        "auto_map": dict(AUTO_MAP),
        "custom_pipelines": CUSTOM_PIPELINES,
    }
    _write_json(folder / CONFIG, config)
    stored = Path(source.path, PREPROCESSOR)
    preprocessor = read_json(stored) if stored.exists() else _preprocessor(source.front_end)
    _write_json(folder / PREPROCESSOR, preprocessor | {"auto_map": dict(EXTRACTOR_AUTO_MAP)})
    for name in CODE_FILES:
        shutil.copyfile(Path(__file__).parent / name, folder / name)
    write_handler(folder)
    with open(folder / WEIGHTS_FILE, "wb") as file:
        write_tensors(file, source.tensors, {WEIGHT: weight, BIAS: bias})
    (folder / "README.md").write_text(readme, encoding="utf-8")
    open_model(folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _preprocessor(front_end: FrontEnd) -> dict[str, Any]:
    names = ("sampling_rate", "n_fft", "win_size", "hop_size", "f_min", "f_max", "center")
    fields = {name: getattr(front_end, name) for name in names}
    return {"feature_extractor_type": "CedFeatureExtractor", "feature_size": front_end.n_mels} | fields


def write_tensors(file: BinaryIO, tensors: Mapping[str, StoredTensor], new: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file: `tensors` unchanged, except for values of those in `new`, in the stored dtype."""
    # Larger dtypes first, so that all tensors are aligned.
    order = sorted(tensors, key=lambda name: (-np.dtype(TYPES[tensors[name].dtype]).itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in order:
        stored = tensors[name]
        shape = new[name].shape if name in new else stored.shape
        end = offset + int(np.prod(shape, dtype=np.int64)) * np.dtype(TYPES[stored.dtype]).itemsize
        header[name] = {"dtype": stored.dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        if name in new:
            file.write(_as_stored(new[name], tensors[name].dtype).tobytes())
        else:
            for values in tensors[name].chunks():
                file.write(values.tobytes())


def _as_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "BF16":
        return values.astype(TYPES[dtype])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)  # round to nearest, ties to even
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
