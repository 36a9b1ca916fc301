# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced search`: a recording → similar windows of other recordings."""

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from ..messages import OptionError, clock
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import load_tagger
from .options import COMPUTING, OUTPUT, option
from .playing import Speaker
from .terminal import put, put_json, say_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clip_files import Part
    from ..embedding_index import Hit


@one_line_errors
def search(
    paths: Annotated[list[str], typer.Argument(metavar="QUERY… INDEX", hidden=True)],
    model: Annotated[
        str | None,
        option(
            COMPUTING,
            "--model",
            "-m",
            metavar="DIR_OR_ID",
            help="Model folder or Hub id; by default the model that made INDEX.",
        ),
    ] = None,
    top_k: Annotated[
        int | None, option(OUTPUT, "--top-k", "-k", metavar="N", min=1, help="Maximum windows; by default 10.")
    ] = None,
    clips: Annotated[
        str | None, option(OUTPUT, metavar="DIR", help="Save the windows found as clips in this new folder.")
    ] = None,
    play: Annotated[bool, option(OUTPUT, "--play", help="Play the windows found, the best first.")] = False,
    format: options.ClipFormat = "wav",
    channel: options.Channel = None,
    as_json: options.AsJson = False,
    device: options.Device = None,
    num_threads: options.Threads = None,
    engine: options.Engine = "auto",
) -> None:
    """Find sounds similar to a recording.

    QUERY is a recording of the sound, or several recordings of the same sound. INDEX is a file made by `ced embed`. The
    score is the cosine similarity of the embeddings.
    """
    from ..clip_files import check_format
    from ..embedding_index import EXTENSIONS, EmbeddingIndex
    from ..output import check_writable

    *queries, path = paths
    if not queries:
        raise CliError("missing INDEX: expected recordings to search for, then a file made by ced embed")
    if not path.lower().endswith(EXTENSIONS) and (given := [each for each in queries if each.endswith(EXTENSIONS)]):
        raise CliError(f"{path}: expected a file made by ced embed; give {given[0]} last, after the recordings")
    check_format(format)
    speaker = Speaker() if play else None  # fails before the search
    if clips is not None and os.path.lexists(clips) and not (os.path.isdir(clips) and not os.listdir(clips)):
        raise CliError(f"--clips {clips}: expected a new or empty folder")
    if clips is not None:
        check_writable(os.path.join(clips, "clip"), clips)
    index = EmbeddingIndex.load(path)
    made_by = str(index.made_by["model"])
    try:
        tagger = load_tagger(made_by if model is None else model, device=device, num_threads=num_threads, engine=engine)
    except (CliError, OptionError) as error:
        if model is not None:
            raise
        raise CliError(
            f"{path} was made with the model {made_by}, which cannot be found: give its folder with --model", FAILED
        ) from error
    index.check_model(tagger, path)
    embeddings = tagger.embed(queries, channel=options.parse_channel(channel))
    hits = index.search(embeddings, top_k or 10)
    if as_json:
        rows = [hit._asdict() | {"query": queries[hit.query]} for hit in hits]
        put_json(json.dumps(rows, indent=2))
    else:
        put(" score      start        end  file")
        put(*(f"{hit.score:6.3f} {clock(hit.start_s):>10} {clock(hit.end_s):>10}  {hit.file}" for hit in hits))
    failed = 0
    if clips is not None:
        from ..clip_files import part_name, write_part

        os.makedirs(clips, exist_ok=True)

        def write(part: "Part", rank: int, hit: "Hit") -> None:
            write_part(part, os.path.join(clips, f"{rank:03}_{part_name(hit.file, hit.start_s, format)}"), format)

        failed += _take(hits, write)
    if speaker is not None:
        failed += _take(hits, speaker.play)
    if failed:
        raise typer.Exit(FAILED)


def _take(hits: "list[Hit]", use: "Callable[[Part, int, Hit], None]") -> int:
    """Calls `use` with the audio and rank of each hit. Returns the number of hits that could not be read."""
    from ..clip_files import cut_parts
    from ..input_list import unescape_name

    failed = 0
    for rank, hit in enumerate(hits, start=1):
        try:
            (part,) = cut_parts(unescape_name(hit.file), [(hit.start_s, hit.end_s)])
            use(part, rank, hit)
        except (OSError, ValueError) as error:
            failed += 1
            say_error(hit.file, str(error).removeprefix(f"{hit.file}: "))
    return failed
