# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced embed`: recordings → a file of embeddings; interrupted runs can be resumed."""

import base64
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..messages import count
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import load_tagger
from .options import OUTPUT, WINDOWS, option
from .progress import inputs_without_entry, progress_of
from .terminal import put, say

if TYPE_CHECKING:
    from ..embedding_index import EmbeddingIndex
    from ..input_list import Input
    from ..tagger import AudioTagger
    from ..unfinished import Entry, Unfinished

KIND = "embeddings"


@one_line_errors
def embed(
    paths: Annotated[list[str] | None, typer.Argument(metavar="PATHS…", hidden=True)] = None,
    list_file: options.ListFile = None,
    channel: options.Channel = None,
    model: options.Model = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
    device: options.Device = None,
    num_threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    window_s: Annotated[
        float | None,
        option(
            WINDOWS,
            "--window",
            metavar="SECONDS",
            help="Window length; by default 10. A shorter recording is one window.",
        ),
    ] = None,
    hop_s: Annotated[
        float | None,
        option(
            WINDOWS, "--hop", metavar="SECONDS", help="Distance between window starts; by default the window length."
        ),
    ] = None,
    output: Annotated[
        str | None,
        option(
            OUTPUT,
            "--output",
            "-o",
            metavar="FILE",
            help="A .npz (NumPy) or .parquet file, written at the end; until then FILE.journal. Required.",
        ),
    ] = None,
    resume: Annotated[
        bool, option(OUTPUT, "--resume", help="Keep the embeddings in FILE and add those of other PATHS.")
    ] = False,
    overwrite: Annotated[bool, option(OUTPUT, "--overwrite", help="Discard the embeddings in FILE.")] = False,
) -> None:
    """Save embeddings, for `ced search` or machine learning.

    PATHS are files, folders and patterns, as for `ced tag`. The embedding of each window is written to FILE, with its
    recording, start and end. `ced search` finds the windows that sound like a recording.

    Exit code: 0, 1 if inputs failed (each is named on stderr), 2 for wrong usage.
    """
    from ..embedding_index import EmbeddingIndex, check_index_name
    from ..input_list import STANDARD_INPUT, find_inputs
    from ..messages import RunError
    from ..output import check_writable
    from ..records import with_results
    from ..unfinished import Unfinished, check_finished

    if output is None:
        raise CliError("missing --output FILE.npz: where to write the embeddings")
    if resume and overwrite:
        raise CliError("--resume keeps the embeddings, --overwrite discards them: choose one")
    output = os.path.realpath(check_index_name(output))
    if not os.path.isdir(os.path.dirname(output)):
        raise CliError(f"--output {output}: there is no folder {os.path.dirname(output)!r}")
    check_writable(output)
    exists = os.path.exists(output)
    if exists and not (resume or overwrite):
        raise CliError(f"{output} exists: use --resume to keep its embeddings, or --overwrite")
    if not (resume or overwrite):
        check_finished(output)
    inputs = find_inputs(paths or [], list_file)
    if resume and any(item.name == STANDARD_INPUT for item in inputs):
        raise CliError("--resume does not work with standard input: save it as a file first")
    kept = EmbeddingIndex.load(output) if exists and resume else None
    windows: dict[str, Any] = {"window_s": window_s, "hop_s": hop_s, "channel": options.parse_channel(channel)}
    computing: dict[str, Any] = {"engine": engine, "compute_type": compute_type, "device": device}
    tagger = load_tagger(model, **computing, num_threads=num_threads, batch_size=batch_size)
    list(tagger.embeddings([], **windows))  # checks the windows
    header = {"ced": KIND, "model": tagger.name, "weights": tagger.fingerprint, **windows}
    header["compute_type"] = tagger.compute_type
    with Unfinished(output, header, resume=resume, overwrite=overwrite) as unfinished:
        if kept is not None:
            _keep(kept, unfinished, header, output)
        waiting = inputs_without_entry(inputs, unfinished)
        progress = progress_of(waiting)
        found = with_results(waiting, lambda each: tagger.embeddings(each, on_audio=progress.add_audio, **windows))
        progress.keep((_entry(item, result) for item, result in found), unfinished)
        index = _joined(unfinished, tagger, header)
        try:
            index.save(output, replace=resume or overwrite)
        except OSError as error:
            raise RunError(f"{output}: {error.strerror or error}; {unfinished.advice}") from error
        unfinished.remove()
    put(f"wrote {output}: {count(len(index), 'embedding')} of {count(len(index.files), 'recording')}")
    say(progress.summary())
    if progress.failed:
        raise typer.Exit(FAILED)


def _keep(kept: "EmbeddingIndex", unfinished: "Unfinished", header: dict[str, Any], output: str) -> None:
    """Copies the embeddings of a finished file into the journal."""
    import numpy as np

    unfinished.check(dict(kept.made_by), output)
    borders = np.searchsorted(kept.file_index, range(len(kept.files) + 1))
    for number, name in enumerate(kept.files):
        rows = slice(borders[number], borders[number + 1])
        if name not in unfinished:
            unfinished.add(_row(name, kept.start_s[rows], kept.end_s[rows], kept.embeddings[rows]))


def _entry(item: "Input", result: Any) -> "Entry":
    from ..records import reason

    if result is None or result.error is not None:
        return {"file": item.name, "error": reason(item, result)}
    return _row(item.name, result.start_s, result.end_s, result.embeddings)


def _row(name: str, start_s: Any, end_s: Any, embeddings: Any) -> "Entry":
    vectors = base64.b64encode(embeddings.astype("<f4").tobytes()).decode()
    return {"file": name, "start_s": start_s.tolist(), "end_s": end_s.tolist(), "embeddings": vectors}


def _joined(unfinished: "Unfinished", tagger: "AudioTagger", header: dict[str, Any]) -> "EmbeddingIndex":
    import numpy as np

    from ..embedding_index import join_embeddings

    def entries() -> Any:
        for name, entry in zip(unfinished.offsets, unfinished.entries(unfinished.offsets), strict=True):
            vectors = np.frombuffer(base64.b64decode(entry["embeddings"]), "<f4").reshape(-1, tagger.embed_dim)
            yield name, np.array(entry["start_s"]), np.array(entry["end_s"]), vectors

    return join_embeddings(entries(), tagger.embed_dim, header)
