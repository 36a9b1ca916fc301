# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
The AudioSet ontology: a hierarchy of the classes.

`audioset_ontology.tsv` has the 527 classes and the abstract nodes above them, one per line: machine id, name, and
machine ids of the children. It is an extract of AudioSet's `ontology.json` (Google LLC,
https://github.com/audioset/ontology), licensed under CC BY-SA 4.0.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

from .classes import MIN_SIMILARITY, fold, similar_names, words_of

MAX_SIMILAR = 5


class Node(NamedTuple):
    """A class, or an abstract node above classes. `children` are machine ids."""

    mid: str
    name: str
    children: tuple[str, ...]


@cache
def nodes() -> dict[str, Node]:
    """The 557 nodes by machine id."""
    text = Path(__file__).with_name("audioset_ontology.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines())
    return {mid: Node(mid, name, tuple(children.split())) for mid, name, children in rows}


@cache
def parents() -> dict[str, list[str]]:
    """Machine ids of the parents of each node; 36 classes have several."""
    found: dict[str, list[str]] = {mid: [] for mid in nodes()}
    for node in nodes().values():
        for child in node.children:
            found[child].append(node.mid)
    return found


@cache
def _by_name() -> dict[str, Node]:
    return {node.name.casefold(): node for node in nodes().values()}


def find_node(name: str) -> Node | None:
    """The node with this name (in any case, with `_` or spaces) or machine id."""
    return nodes().get(name) or _by_name().get(fold(name))


def group(name: str) -> list[str] | None:
    """The names of a node and of all below it, from the top; None if there is no such node."""
    top = find_node(name)
    if top is None:
        return None
    found = dict.fromkeys([top.mid])
    waiting = list(top.children)
    while waiting:
        mid = waiting.pop(0)
        if mid not in found:
            found[mid] = None
            waiting += nodes()[mid].children
    return [nodes()[mid].name for mid in found]


def paths_to(mid: str) -> list[list[str]]:
    """All paths from the top of the ontology to a node, as machine ids, without the node."""
    above = parents()[mid]
    return [[*path, parent] for parent in above for path in paths_to(parent)] if above else [[]]


def search(text: str) -> list[Node]:
    """Nodes whose names have all words of `text`, or words that begin with them; exact matches first."""
    wanted = words_of(text)
    found = []
    for node in nodes().values():
        words = words_of(node.name)
        if wanted and all(any(word.startswith(each) for word in words) for each in wanted):
            found.append((not set(wanted) <= set(words), node))
    return [node for _, node in sorted(found, key=lambda item: item[0])]


def search_any(text: str) -> list[Node]:
    """Nodes whose names have a word of `text` with at least three letters; those with most matches first."""
    wanted = {word for word in words_of(text) if len(word) > 2}
    found = [(len(wanted & set(words_of(node.name))), node) for node in nodes().values()]
    return [node for number, node in sorted(found, key=lambda item: -item[0]) if number]


def similar(text: str) -> list[Node]:
    """Nodes with names similar to `text`, the most similar first, else those with the same letters in another order."""
    by_name = {node.name: node for node in nodes().values()}
    found = similar_names(text, by_name, MAX_SIMILAR, MIN_SIMILARITY)
    found = found or [name for name in by_name if sorted(fold(name)) == sorted(fold(text))]
    return [by_name[name] for name in found]
