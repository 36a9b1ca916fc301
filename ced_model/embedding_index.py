# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Search for similar sounds: an index of embeddings of many recordings, stored as `.npz` or Parquet."""

import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .messages import OptionError, RunError, UsageError, printable
from .output import new_file
from .packages import require

if TYPE_CHECKING:
    from .tagger import AudioTagger

EXTENSIONS = (".npz", ".parquet")
BLOCK_ROWS = 2**12  # rows compared at a time, which fit into the CPU cache
TINY = 1e-12


@dataclass(frozen=True)
class EmbeddingIndex:
    """
    Embeddings of windows.

    Attributes:
        files: The recordings.
        file_index: Index in `files` of each window, int32 of shape `(windows,)`.
        start_s, end_s: Start and end of the windows in seconds, float64 of shape `(windows,)`.
        embeddings: float32 of shape `(windows, embed_dim)`.
        made_by: The `model`, the checksum of its `weights`, and the options `window_s`, `hop_s` and `channel`.
    """

    files: list[str]
    file_index: np.ndarray = field(repr=False)
    start_s: np.ndarray = field(repr=False)
    end_s: np.ndarray = field(repr=False)
    embeddings: np.ndarray = field(repr=False)
    made_by: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.embeddings)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EmbeddingIndex":
        """
        Reads a file written by `ced embed` or [`EmbeddingIndex.save`].

        Raises:
            ValueError: if it is not such a file.
        """
        path = os.fspath(path)
        shown = repr(printable(path))
        if not os.path.isfile(path):
            problem = "this is a folder" if os.path.isdir(path) else "there is no such file"
            raise UsageError(f"{shown}: {problem}; expected a file made by `ced embed`")
        try:
            columns, text = (_read_parquet if path.lower().endswith(".parquet") else _read_npz)(path)
            made_by = json.loads(text)
            index = cls(made_by=made_by, **columns)
            rows = {len(index.file_index), len(index.start_s), len(index.end_s), len(index.embeddings)}
            if len(rows) > 1 or index.embeddings.ndim != 2 or not isinstance(made_by.get("weights"), str):
                raise ValueError
        except (KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:  # also errors of PyArrow
            raise UsageError(f"{shown} is not a file of embeddings, or damaged; make one with `ced embed`") from error
        return index

    def save(self, path: str | os.PathLike[str], replace: bool = False) -> None:
        """Writes a `.npz` or `.parquet` file, depending on the name."""
        path = check_index_name(path)
        text = json.dumps(dict(self.made_by))
        with new_file(path, replace) as file:
            if path.lower().endswith(".parquet"):
                _write_parquet(self, file, text)
            else:
                np.savez(
                    file,
                    files=np.array(self.files, dtype=str),
                    file_index=self.file_index,
                    start_s=self.start_s,
                    end_s=self.end_s,
                    embeddings=self.embeddings,
                    ced=np.array(text),
                )

    def check_model(self, tagger: "AudioTagger", path: str) -> None:
        """Raises a `RunError` if the embeddings are from another model."""
        if tagger.fingerprint != self.made_by["weights"]:
            raise RunError(
                f"{path} has embeddings of another model ({self.made_by.get('model')}) than {tagger.name}: use that"
                " model, or embed the recordings again"
            )

    def search(self, queries: np.ndarray, top_k: int = 10) -> list["Hit"]:
        """
        Finds the windows that are most similar to any of the queries, most similar first.

        The search is exhaustive; half a million windows take half a second. Of overlapping windows of a recording, only
        the best is returned.

        Args:
            queries: Embeddings of the same model, `(queries, embed_dim)`.
            top_k: Maximum number of hits.
        """
        if top_k < 1:
            raise OptionError("top_k", top_k, "a whole number from 1")
        wanted = _unit(np.atleast_2d(np.asarray(queries, np.float32)))
        scores, nearest = np.zeros(len(self), np.float32), np.zeros(len(self), np.int32)
        for start in range(0, len(self), BLOCK_ROWS):
            block = self.embeddings[start : start + BLOCK_ROWS]
            lengths = np.sqrt(np.einsum("wd,wd->w", block, block))
            cosines = (block @ wanted.T) / np.maximum(lengths, TINY)[:, None]
            nearest[start : start + BLOCK_ROWS] = cosines.argmax(axis=1)
            scores[start : start + BLOCK_ROWS] = cosines.max(axis=1)
        hits: list[Hit] = []
        taken: dict[int, list[tuple[float, float]]] = {}
        for row in np.argsort(-scores, kind="stable"):
            spans = taken.setdefault(int(self.file_index[row]), [])
            start_s, end_s = float(self.start_s[row]), float(self.end_s[row])
            if any(start_s < end and begin < end_s for begin, end in spans):
                continue
            spans.append((start_s, end_s))
            file = self.files[self.file_index[row]]
            hits.append(Hit(file, start_s, end_s, float(scores[row]), int(nearest[row])))
            if len(hits) == top_k:
                break
        return hits


class Hit(NamedTuple):
    """
    A search result.

    Attributes:
        file: The recording.
        start_s, end_s: Start and end of the window in seconds.
        score: Cosine similarity to the most similar query, from -1 to 1.
        query: Index of this query.
    """

    file: str
    start_s: float
    end_s: float
    score: float
    query: int


def join_embeddings(
    entries: Iterable[tuple[str, Any, Any, Any]], width: int, made_by: Mapping[str, Any]
) -> EmbeddingIndex:
    """
    Builds an index from the embeddings of recordings.

    Args:
        entries: The name, `start_s`, `end_s` and `embeddings` of each recording, as in [`EmbeddingResult`].
        width: Width of the embeddings, which an index without recordings has, too.
        made_by: As in [`EmbeddingIndex`].
    """
    files: list[str] = []
    rows = [(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros((0, width), np.float32))]
    for name, start_s, end_s, embeddings in entries:
        rows.append((np.full(len(start_s), len(files), np.int32), start_s, end_s, embeddings))
        files.append(name)
    file_index, starts, ends, vectors = (np.concatenate(column) for column in zip(*rows, strict=True))
    return EmbeddingIndex(files, file_index, starts, ends, vectors, made_by)


def check_index_name(path: str | os.PathLike[str]) -> str:
    """Checks that the name ends in .npz or .parquet, and that PyArrow is installed for Parquet."""
    path = os.fspath(path)
    if not path.lower().endswith(EXTENSIONS):
        raise OptionError("output", path, f"a name that ends in {' or '.join(EXTENSIONS)}")
    if path.lower().endswith(".parquet"):
        require(("pyarrow",), "Parquet")
    return path


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)


def _read_npz(path: str) -> tuple[dict[str, Any], str]:
    with np.load(path, allow_pickle=False) as file:
        columns = {name: file[name] for name in ("file_index", "start_s", "end_s", "embeddings")}
        return columns | {"files": file["files"].tolist()}, str(file["ced"])


def _read_parquet(path: str) -> tuple[dict[str, Any], str]:
    require(("pyarrow",), "Parquet")
    from pyarrow import parquet

    table = parquet.read_table(path, read_dictionary=["file"])
    names = table["file"].combine_chunks()
    vectors = table["embedding"].combine_chunks()
    width = vectors.type.list_size
    columns = {
        "files": names.dictionary.to_pylist(),
        "file_index": names.indices.to_numpy(zero_copy_only=False).astype(np.int32),
        "start_s": table["start_s"].to_numpy(),
        "end_s": table["end_s"].to_numpy(),
        "embeddings": vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, width),
    }
    return columns, table.schema.metadata[b"ced"].decode()


def _write_parquet(index: EmbeddingIndex, file: Any, text: str) -> None:
    import pyarrow
    from pyarrow import parquet

    width = index.embeddings.shape[1]
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(index.embeddings.ravel()), width)
    names = pyarrow.DictionaryArray.from_arrays(pyarrow.array(index.file_index), pyarrow.array(index.files, "string"))
    table = pyarrow.table(
        {"file": names, "start_s": index.start_s, "end_s": index.end_s, "embedding": vectors}
    ).replace_schema_metadata({"ced": text})
    parquet.write_table(table, file)
