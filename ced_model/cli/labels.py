# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced labels`: the classes of AudioSet and their hierarchy, or the classes of a model."""

from typing import Annotated

import typer

from ..audioset import AUDIOSET_CLASSES
from ..messages import printable
from .completion import complete_model
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import choose_model, quieten, shown_name
from .options import COMPUTING, option
from .terminal import put, say

INDEX_OF_MID = {mid: index for index, (mid, _) in enumerate(AUDIOSET_CLASSES)}
MID_WIDTH = max(map(len, INDEX_OF_MID))
INDENT = "  "


@one_line_errors
def labels(
    query: Annotated[list[str] | None, typer.Argument(metavar="QUERY…", hidden=True)] = None,
    model: Annotated[
        str | None,
        option(
            COMPUTING,
            "--model",
            "-m",
            metavar="DIR_OR_ID",
            help="Show the classes of this model instead.",
            autocompletion=complete_model,
        ),
    ] = None,
) -> None:
    """Search the 527 classes of AudioSet.

    QUERY is a name, some words of it, an index or a machine id; by default all classes are listed. Each line has the
    index, machine id and name of a class. Lines without an index are groups, which have no score. A single match is
    shown with the classes above and below it. In other commands, `--labels Dog...` is Dog and all classes below it.
    With --model, each line has the index and name of a class of the model.
    """
    if model is not None:
        put(*_lines_of_model(model, " ".join(query or ())))
        return
    if not query:
        put(*(_line(mid, name) for mid, name in AUDIOSET_CLASSES))
        return
    from .. import ontology

    text = " ".join(" ".join(query).split())
    if not text:
        raise CliError("empty QUERY: expected a name, words of it, an index or a machine id")
    index = int(text) if text.isdecimal() else -1
    mid = AUDIOSET_CLASSES[index][0] if 0 <= index < len(AUDIOSET_CLASSES) else text
    exact = ontology.find_node(mid.replace("…", "...").removesuffix("..."))
    found = [exact] if exact is not None else ontology.search(text)
    if not found:
        shown_text = repr(printable(text)[:60])
        found = ontology.similar(text)
        found, kind = (found, "similar names") if found else (ontology.search_any(text), "with some of these words")
        if not found:
            raise CliError(
                f"no class is similar to {shown_text}: run `ced labels` to list all {len(AUDIOSET_CLASSES)}", FAILED
            )
        say(f"no class matches {shown_text}; {kind}:")
        put(*(_line(node.mid, node.name) for node in found))
        return
    if exact is None and len(found) > 1:
        put(*(_line(node.mid, node.name) for node in found))
        return
    (node,) = found
    shown: list[str] = []
    for path in ontology.paths_to(node.mid):
        shown += ["", *(_line(mid, INDENT * depth + ontology.nodes()[mid].name) for depth, mid in enumerate(path))]
        shown += _below(node.mid, len(path))
    put(*shown[1:])
    others = [other for other in ontology.search(text) if other.name not in (ontology.group(node.mid) or [])]
    if others:
        put("", f"Others with the words {text!r}:", *(_line(other.mid, other.name) for other in others))


def _lines_of_model(model: str, query: str) -> list[str]:
    """The classes of a model with this index, with all words of the query, or with similar names."""
    from ..classes import similar_names, words_of
    from ..model_folder import open_model

    name = choose_model(model)
    quieten()
    try:
        names = open_model(name).labels
    except (OSError, ValueError) as error:
        raise CliError(f"{shown_name(name)} cannot be loaded: {error}", FAILED) from error
    wanted = words_of(query)
    found = [each for each in names if all(any(w.startswith(q) for w in words_of(each)) for q in wanted)]
    found = [names[int(query)]] if query.isdecimal() and int(query) < len(names) else found
    if not found:
        shown_text = repr(printable(query)[:60])
        found = similar_names(query, names)
        if not found:
            raise CliError(f"no class of {shown_name(name)} is similar to {shown_text}", FAILED)
        say(f"no class matches {shown_text}; similar names:")
    return [f"{names.index(each):>3}  {each}" for each in found]


def _line(mid: str, name: str) -> str:
    return f"{INDEX_OF_MID.get(mid, '–'):>3}  {mid:{MID_WIDTH}}  {name}"


def _below(mid: str, depth: int) -> list[str]:
    from ..ontology import nodes

    node = nodes()[mid]
    lines = [_line(mid, INDENT * depth + node.name)]
    return lines + [line for child in node.children for line in _below(child, depth + 1)]
