# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""
What the site needs beside mkdocs: the syntax of the transformers docs, and pages that are files of the repository.

- `[[autodoc]] Name` with an optional list of methods is the reference of a public class or function of `ced_model`;
  [`Name`] and [`Name.method`] link to it, in pages and in docstrings. Names of transformers become plain code.
- `[[commands]]` is the help of every command.
- README.md, CONTRIBUTING.md and CHANGELOG.md of the repository are pages; links to its other files lead to
  copies of them in the site.
"""

import inspect
import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Their docstrings are made when they are imported (transformers' `auto_docstring`).
PORT = ("configuration_ced", "feature_extraction_ced", "modeling_ced", "pipeline_ced")
HEADING_OF_SECTION = {"Args": "Arguments", "Parameters": "Arguments"}
SECTION = re.compile(r"^(Args|Parameters|Attributes|Returns|Raises|Yields|Examples?):$")
ITEM = re.compile(r"^([`*\w][\w`*., ]*?)(?: \((.+?)\))?:(?: +(.*))?$")
MULTI = re.MULTILINE | re.DOTALL
FENCED = re.compile(r"(^ *```.*?^ *```[^\n]*$)", flags=MULTI)
AUTODOC = re.compile(
    r"^(?:#+ (?P<heading>\S+)\n\n)?\[\[autodoc\]\] (?P<name>\S+)\n?(?P<members>(?: +- \w+\n?)*)", re.MULTILINE
)

logger = logging.getLogger("mkdocs.plugins.ced_model")


# mkdocs


def on_config(config: Any) -> Any:
    config["nav"] = [item for item in map(existing, config["nav"]) if item]
    return config


def existing(item: Any) -> Any:
    """An entry of the navigation without the pages that are not written yet."""
    if isinstance(item, str):
        page_of_root = {page: source for source, page in ROOT_PAGES.items()}.get(item)
        return item if (ROOT / page_of_root if page_of_root else DOCS / item).is_file() else None
    ((title, inner),) = item.items()
    found = [each for each in map(existing, inner) if each] if isinstance(inner, list) else existing(inner)
    return {title: found} if found else None


def on_files(files: Any, config: Any) -> Any:
    for source, page in ROOT_PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, page, content=root_page((ROOT / source).read_text(encoding="utf-8"))))
    for path in sorted(repository_files()):
        files.append(File.generated(config, copy_of(path), content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    markdown = re.sub(r"\A<!--.*?-->\s*", "", markdown, flags=re.DOTALL)
    markdown = outside_code(lambda text: repository_links(text, page.file.src_uri), markdown)
    markdown = re.sub(r"^\[\[commands\]\]$", lambda _: "\n\n".join(command_help()), markdown, flags=re.MULTILINE)
    markdown = outside_code(lambda text: AUTODOC.sub(autodoc, text), markdown)
    # Badges are pictures of another server.
    markdown = re.sub(r"!\[([^]]*)\]\(https?://[^)]*\)", r'<span class="badge">\1</span>', markdown)
    return linked(markdown, page.file.src_uri)


def outside_code(change: Callable[[str], str], markdown: str) -> str:
    """Changes a text except for its fenced code."""
    return "".join(part if index % 2 else change(part) for index, part in enumerate(FENCED.split(markdown)))


# Files of the repository

LINK = re.compile(r"""(\]\(|src=["'])(?!\w+:|#|/)([\w./-]+)""")


def root_page(text: str) -> str:
    """A page of the repository's root with links as a page of `docs/` has them."""

    def link(match: re.Match[str]) -> str:
        target = match[2]
        if target.startswith("docs/"):
            return match[1] + target.removeprefix("docs/")
        return match[1] + ROOT_PAGES.get(target, f"../{target}")

    return outside_code(lambda part: LINK.sub(link, part), text)


def outside_path(target: str, page: str) -> str | None:
    """The file of the repository (of a folder its README.md) that a page links to, if it is none of `docs/`."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    if path.startswith("docs/") or not (ROOT / path).exists():
        return None
    return f"{path}/README.md" if (ROOT / path).is_dir() else path


def copy_of(path: str) -> str:
    """The copy in the site: browsers show text as text; a notebook is downloaded."""
    return f"repository/{path}" if path.endswith(".ipynb") else f"repository/{path}.txt"


def repository_files() -> set[str]:
    """The files of the repository outside `docs/` that pages link to."""
    pages = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
    for source, page in ROOT_PAGES.items():
        if (ROOT / source).is_file():
            pages[page] = root_page((ROOT / source).read_text(encoding="utf-8"))
    found = {outside_path(match[2], page) for page, text in pages.items() for match in LINK.finditer(text)}
    return {path for path in found if path and path not in ROOT_PAGES}


def repository_links(text: str, page: str) -> str:
    """Links to files of the repository as links to their copies in the site."""
    to_root = "../" * page.count("/")

    def link(match: re.Match[str]) -> str:
        path = outside_path(match[2], page)
        if path is None:
            return match[0]
        return match[1] + to_root + ROOT_PAGES.get(path, copy_of(path))

    return LINK.sub(link, text)


# Reference


def autodoc(match: re.Match[str]) -> str:
    """An entry of mkdocstrings; a heading of the same name above it is left to mkdocstrings."""
    name, methods = match["name"], re.findall(r"- (\w+)", match["members"] or "")
    heading = match["heading"]
    kept = f"## {heading}\n\n" if heading and heading != name.rpartition(".")[2] else ""
    options = ["      heading_level: 2"]
    if methods:
        options.append(f"      members: [{', '.join(methods)}]")
        options.append(f"      inherited_members: [{', '.join(methods)}]")
    elif is_of_port(name):
        options.append("      members: false")
    return kept + "\n".join([f"::: ced_model.{name}", "    options:", *options]) + "\n"


def is_of_port(name: str) -> bool:
    """Whether a class is documented with the methods that its entry lists only, as in the transformers docs."""
    found = public(name) if name.rpartition(".")[0] in ("", *PORT) else None
    return getattr(found, "__module__", "").rpartition(".")[2] in PORT


def public(name: str) -> Any:
    """The object of the package that a dotted name stands for."""
    module, found = import_module("ced_model"), None
    for part in name.split("."):
        try:
            found = getattr(module, part)
        except AttributeError:
            found = import_module(f"{module.__name__}.{part}")
        module = found
    return found


@cache
def entries() -> dict[str, str]:
    """The names of the reference: the last part of each → all of it, without `ced_model.`."""
    found = {}
    for path in DOCS.rglob("*.md"):
        for match in AUTODOC.finditer(FENCED.sub("", path.read_text(encoding="utf-8"))):
            found[match["name"].rpartition(".")[2]] = match["name"]
    return found


@cache
def documented() -> tuple[str, ...]:
    """Where the objects of the reference are defined; without those whose packages are not installed."""
    found = []
    for name in entries().values():
        with suppress(ImportError):
            found.append(public(name))
    return tuple(f"{each.__module__}.{each.__qualname__}" for each in found)


def linked(text: str, place: str, warns: bool = True) -> str:
    """[`Name`] as a link to the reference of this package, or as code where it is a name of transformers."""
    import transformers

    names = entries()

    def link(match: re.Match[str]) -> str:
        first, _, rest = match[1].removeprefix("ced_model.").partition(".")
        if first in names:
            return f"[`{match[1]}`][ced_model.{names[first]}{'.' + rest if rest else ''}]"
        if warns and not hasattr(transformers, first) and first not in ("transformers", "utils"):
            logger.warning("%s: [`%s`] is in no page of the reference", place, match[1])
        return f"`{match[1]}`"

    pattern = re.compile(r"\[`~?([A-Za-z_][\w.]*)`\](?![\[(])")
    return outside_code(lambda part: pattern.sub(link, part), text)


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: sections of arguments as lists, links as in pages; those of the port as they are made."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.is_module or obj.name.startswith("_") and obj.name != "__call__":
            return
        text = obj.docstring.value if obj.docstring else None
        if obj.module.name in PORT and (obj.is_class or obj.is_function) and not obj.module.path.startswith("_"):
            text = self._made(obj) or text
        if text:
            is_shown = f"{obj.path}.".startswith(tuple(f"{path}." for path in documented()))
            obj.docstring = griffe.Docstring(linked(to_markdown(text), obj.path, is_shown), parent=obj)

    def _made(self, obj: griffe.Object) -> str | None:
        found: Any = import_module(obj.module.path)
        for part in obj.path.removeprefix(obj.module.path + ".").split("."):
            found = getattr(found, part, None)
        return without_boilerplate(inspect.unwrap(found).__doc__ or "") if callable(found) else None


def without_boilerplate(text: str) -> str:
    """A docstring of transformers without the paragraphs that all models have."""
    text = inspect.cleandoc(text)
    text = re.sub(r"<Tip>.*?</Tip>\n*", "", text, flags=re.DOTALL)
    text = re.sub(r"^(The \[`\w+`\] forward method|This model (inherits|is also)).*?(\n\n|\Z)", "", text, flags=MULTI)
    text = re.sub(r"A \[`[\w.]+`\] or a tuple of\s+`torch.Tensor`.*?\(\[`\w+`\]\) and inputs\.", "", text, flags=MULTI)
    return re.sub(r"\[`ced_model\.\w+\.(\w+)`\]", r"[`\1`]", inspect.cleandoc(text))


def to_markdown(text: str) -> str:
    """A docstring whose sections (`Args:`, `Returns:`, …) are headings in bold and lists."""
    lines = inspect.cleandoc(text).split("\n")
    parts: list[str] = []
    while lines:
        line = lines.pop(0)
        if not (section := SECTION.match(line)):
            parts.append(line)
            continue
        block = []
        while lines and (not lines[0] or lines[0].startswith(" ")):
            block.append(lines.pop(0))
        inner = inspect.cleandoc("\n".join(block))
        name = section[1]
        parts += ["", f"**{HEADING_OF_SECTION.get(name, name)}**", ""]
        parts += list(items(inner)) if name in ("Args", "Parameters", "Attributes", "Raises") else inner.split("\n")
        parts.append("")
    return "\n".join(parts)


def items(block: str) -> Iterator[str]:
    """`name (type): text` as items of a list."""
    for line in block.split("\n"):
        if not (match := ITEM.match(line)):
            yield f"  {line}" if line else ""
            continue
        names = ", ".join(f"`{name.strip('`* ')}`" for name in match[1].split(","))
        kind = f" ({match[2]})" if match[2] else ""
        yield f"- {names}{kind}: {match[3] or ''}"


# The command


def command_help() -> Iterator[str]:
    """A heading and the help of each command."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from ced_model.cli.app import app

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if words:
            yield words
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*words, name))

    for words in walk(get_command(app), ()):
        text = CliRunner().invoke(app, [*words, "--help"], prog_name="ced", terminal_width=100).output
        yield f"## ced {' '.join(words)}\n\n```text\n{text.strip()}\n```"
