# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The documentation site builds without warnings, its links work, and the reference is complete."""

import ast
import importlib
import inspect
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
COMPONENTS_WITH_EXPORTS = ("conversion", "demo", "distributed", "exporting", "labelled", "training.finetuning")


class Page(HTMLParser):
    """Anchors, links and resources of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {name for key in ("id", "name") if (name := values.get(key))}
        if tag == "a" and (href := values.get("href")):
            self.links.append(href)
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next") and (href := values.get("href")):
            self.fetched.append(href)
        elif source := values.get("src"):
            self.fetched.append(source)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by `mkdocs build --strict`."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.chdir(ROOT)
        config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        build(config)
    return folder


def test_all_links_and_anchors_of_the_site_exist_and_nothing_is_fetched_from_other_servers(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}
    assert {"index.html", "ced.html", "reference/tagger.html", "tutorials/first_tags.html"} <= pages.keys()
    broken = []
    for name, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            target = target / "index.html" if target.is_dir() else target
            anchors = pages.get(target.resolve().relative_to(site.resolve()).as_posix())
            if not target.is_file() or parts.fragment and anchors and unquote(parts.fragment) not in anchors.anchors:
                broken.append((name, link))
    assert broken == []
    assert [(name, each) for name, page in pages.items() for each in page.fetched if urlsplit(each).netloc] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert not [style for style in styles if re.search(r"url\([\"']?https?:|@import [\"']?https?:", style)]


def reference() -> set[str]:
    """The names of the `[[autodoc]]` entries, without `ced_model.`"""
    return {
        name for page in PAGES for name in re.findall(r"^\[\[autodoc\]\] (\S+)", page.read_text("utf-8"), re.MULTILINE)
    }


def is_documentable(found: object) -> bool:
    return inspect.isclass(found) or inspect.isfunction(found)


def imported_by_pages() -> set[str]:
    """The names that snippets and tables import from modules of the package, as `module.name`."""
    found = set()
    for page in [*PAGES, ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for module, names in re.findall(r"\bfrom ced_model\.([\w.]+) import ([\w, ]+)", text):
            found |= {f"{module}.{name.strip()}" for name in names.split(",")}
    return found


def exported(component: str) -> set[str]:
    """Names in `__all__` of the `__init__.py` of a component, or imported there for users."""
    module = importlib.import_module(f"ced_model.{component}")
    names = getattr(module, "__all__", None)
    if names is None:
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        names = [each.name for node in nodes for each in node.names if each.asname == each.name]
    return {f"{component}.{name}" for name in names if is_documentable(getattr(module, name))}


def test_the_reference_has_every_public_class_and_function() -> None:
    package = importlib.import_module("ced_model")
    public = {name for name in package.__all__ if is_documentable(getattr(package, name))}
    for component in COMPONENTS_WITH_EXPORTS:
        public |= exported(component)
    missing = (public | imported_by_pages()) - reference()
    assert not missing, f"add `[[autodoc]] NAME` to a page of docs/reference/: {sorted(missing)}"


def test_every_entry_of_the_reference_exists_and_has_a_docstring() -> None:
    for name in reference():
        module, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(f"ced_model.{module}".rstrip(".")), last)
        assert is_documentable(found) and found.__doc__, name
