# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The documentation holds: its entries exist, their docstrings are complete, and every snippet runs.

Snippets run offline in a folder with small random checkpoints named `mispeech/ced-*` and a copy of `resources/`. Those
of one file run in order and share their names. A comment behind a `print` is what it prints; examples with `>>>` are
doctests.
"""

import ast
import contextlib
import dataclasses
import doctest
import importlib
import inspect
import io
import re
import shutil
import socket
import textwrap
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, get_args, get_origin, get_type_hints

import pytest
import torch
from transformers.utils import TransformersKwargs

import ced_model
from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *ROOT.glob("README.md")]
SOURCES = sorted((ROOT / "ced_model").glob("**/*.py"))
SIZES = ("tiny", "mini", "small", "base")
OUTPUT_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# What a class inherits and documents nevertheless, because CED gives it a meaning of its own.
INHERITED_FIELDS = {"id2label", "outputdim"}
# `return_dict` is taken by the decorator of every `forward`.
FORWARD_KWARGS = {*TransformersKwargs.__annotations__, "return_dict"}


class Snippet(NamedTuple):
    """A Python block of a file."""

    code: str
    line: int  # of its first line, from 1


def find_snippets(text: str, first_line: int = 1) -> list[Snippet]:
    """The fenced Python blocks of a Markdown text, or of a docstring, that starts at `first_line` of its file."""
    found = re.finditer(r"^([ \t]*)```(?:python|py)[ \t]*\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [Snippet(textwrap.dedent(match[2]), first_line + text[: match.start(2)].count("\n")) for match in found]


def run_snippet(snippet: Snippet, path: Path, names: dict[str, Any]) -> None:
    """Runs a block in the namespace `names`; raises an AssertionError where something else is printed than it says."""
    if snippet.code.lstrip().startswith(">>>"):
        run_doctest(snippet, path, names)
    else:
        run_statements(snippet, path, names)


def run_doctest(snippet: Snippet, path: Path, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(snippet.code, names, path.name, str(path), snippet.line - 1)
    test.globs = names  # the parser copies them, but later blocks build on this one
    report = io.StringIO()
    failed, _ = doctest.DocTestRunner(optionflags=OUTPUT_FLAGS).run(test, out=report.write, clear_globs=False)
    assert not failed, report.getvalue()


def run_statements(snippet: Snippet, path: Path, names: dict[str, Any]) -> None:
    # Blank lines in front give errors the line numbers of the file.
    code = "\n" * (snippet.line - 1) + snippet.code
    lines = code.splitlines()
    for statement in ast.parse(code, str(path)).body:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(ast.Module([statement], []), str(path), "exec"), names)
        for line in lines[statement.lineno - 1 : statement.end_lineno]:
            if match := re.match(r"\s*print\(.*\)  # (.*)", line):
                fits = doctest.OutputChecker().check_output(match[1] + "\n", printed.getvalue(), OUTPUT_FLAGS)
                assert fits, f"{path.name}:{statement.lineno} says {match[1]!r} but prints {printed.getvalue()!r}"


class Docstring(NamedTuple):
    """A docstring in the format of transformers."""

    parameters: dict[str, "Parameter"]
    sections: dict[str, str]


class Parameter(NamedTuple):
    """An entry of a docstring's `Args:`."""

    type: str
    is_optional: bool
    default: str | None
    description: str


def parse_docstring(docstring: str | None) -> Docstring:
    """Splits a docstring at the headings `Args:`, `Returns:`, `Raises:`, and `Args:` at its entries."""
    parts = re.split(r"^(Args|Returns|Raises|Example):[ \t]*$", inspect.cleandoc(docstring or ""), flags=re.MULTILINE)
    sections = dict(zip(["", *parts[1::2]], [parts[0], *parts[2::2]], strict=True))
    arguments = textwrap.dedent(sections.get("Args", "")).strip("\n") + "\n"
    found = re.finditer(r"^(\w+) \((.+)\):\n((?:[ \t]+\S.*\n|\n)+)", arguments, flags=re.MULTILINE)
    return Docstring({entry[1]: parse_parameter(entry[2], entry[3]) for entry in found}, sections)


def parse_parameter(specification: str, description: str) -> Parameter:
    specification, _, default = specification.partition(", defaults to ")
    is_optional = specification.endswith(", *optional*")
    return Parameter(specification.removesuffix(", *optional*"), is_optional, default or None, description)


class Entry(NamedTuple):
    """An `[[autodoc]]` entry of a page."""

    name: str
    methods: list[str]


def find_entries(text: str) -> list[Entry]:
    found = re.finditer(r"^\[\[autodoc\]\] (\S+)\n((?:    - \w+\n?)*)", text, flags=re.MULTILINE)
    return [Entry(match[1], re.findall(r"- (\w+)", match[2])) for match in found]


ENTRIES = [entry for page in PAGES for entry in find_entries(page.read_text(encoding="utf-8"))]
METHODS = [(entry.name, method) for entry in ENTRIES for method in entry.methods]


def resolve(name: str) -> Any:
    return getattr(ced_model, name)


def find_functions(module: ModuleType) -> dict[str, ast.FunctionDef]:
    """The functions of a module and the methods of its classes by their qualified names."""
    functions: dict[str, ast.FunctionDef] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        members = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        functions |= {prefix + member.name: member for member in members if isinstance(member, ast.FunctionDef)}
    return functions


def find_raised(function: Callable[..., Any]) -> set[str]:
    """The exception types that a function raises itself, or through functions of its module and class that it calls."""
    functions = find_functions(importlib.import_module(function.__module__))
    owner = function.__qualname__.rpartition(".")[0]
    raised, seen, waiting = set(), set(), [function.__qualname__]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                raised.add(node.exc.func.id)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                waiting.append(node.func.id)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                waiting.append(f"{owner}.{node.func.attr}")
    return raised


def check_parameters(function: Callable[..., Any], docstring: Docstring, extra: Set[str] = frozenset()) -> None:
    """Asserts that a docstring documents every parameter of a signature, with its default, and no others."""
    signature = inspect.signature(function)
    named = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    }
    assert named.keys() <= docstring.parameters.keys() <= named.keys() | extra
    for name, parameter in named.items():
        entry = docstring.parameters[name]
        assert entry.description.strip() and "`" in entry.type, name
        assert entry.is_optional == (parameter.default is not parameter.empty), name
        if entry.default is not None:
            check_default(name, entry.default, parameter.default)
        else:
            assert parameter.default in (None, parameter.empty), f"{name}: its default is {parameter.default!r}"


def check_default(name: str, documented: str, default: Any) -> None:
    value = ast.literal_eval(documented.strip("`"))
    assert value == default and isinstance(value, bool) == isinstance(default, bool), (
        f"{name} is said to default to {documented}, but its default is {default!r}"
    )


def check_returns_and_raises(function: Callable[..., Any], docstring: Docstring) -> None:
    if get_type_hints(function).get("return") not in (None, type(None)):
        assert docstring.sections.get("Returns", "").strip()
    undocumented = {name for name in find_raised(function) if f"`{name}`" not in docstring.sections.get("Raises", "")}
    assert not undocumented, f"`Raises:` does not tell of {undocumented}"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `mispeech/ced-*`: the published widths, two blocks, random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for size in SIZES:
        torch.manual_seed(0)
        model = CedForAudioClassification(CedConfig(name=f"ced-{size}", depth=2))
        model.save_pretrained(folder / "mispeech" / f"ced-{size}")
        CedFeatureExtractor().save_pretrained(folder / "mispeech" / f"ced-{size}")
    return folder


@pytest.fixture
def workplace(checkpoints: Path, resources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A current folder with all that snippets name, and no network; the namespace that they share."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a snippet connects to {address}")

    shutil.copytree(resources, tmp_path / "resources")
    (tmp_path / "mispeech").symlink_to(checkpoints / "mispeech", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.manual_seed(0)
    return {"__name__": "__main__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_of_a_page_runs_and_prints_what_it_says(page: Path, workplace: dict[str, Any]) -> None:
    for snippet in find_snippets(page.read_text(encoding="utf-8")):
        run_snippet(snippet, page, workplace)


def find_documented(source: Path) -> Iterator[tuple[str, list[Snippet]]]:
    """The docstrings of a module that hold snippets."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) or not node.body:
            continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            if snippets := find_snippets(first.value.value, first.lineno):
                yield getattr(node, "name", source.stem), snippets


EXAMPLES = [
    pytest.param(source, snippets, id=f"{source.stem}.{name}")
    for source in SOURCES
    for name, snippets in find_documented(source)
]


@pytest.mark.parametrize(("source", "snippets"), EXAMPLES)
def test_every_example_of_a_docstring_runs_and_prints_what_it_says(
    source: Path, snippets: list[Snippet], workplace: dict[str, Any]
) -> None:
    for snippet in snippets:
        run_snippet(snippet, source, workplace)


def test_the_model_page_documents_the_public_classes() -> None:
    text = (ROOT / "docs" / "ced.md").read_text(encoding="utf-8")
    entries = dict(find_entries(text))
    assert text.count("[[autodoc]]") == len(entries)
    assert {name: methods[:1] for name, methods in entries.items()} == {
        "CedConfig": [],
        "CedFeatureExtractor": ["__call__"],
        "CedModel": ["forward"],
        "CedForAudioClassification": ["forward"],
    }
    assert len(find_snippets(text)) >= 6 and len(EXAMPLES) >= 4


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_an_entry_resolves_to_a_public_class_with_its_methods(name: str) -> None:
    assert name in ced_model.__all__ and inspect.isclass(resolve(name))
    for entry in ENTRIES:
        if entry.name == name:
            # The class has its own, transformers' are documented there.
            assert all(method in vars(resolve(name)) for method in entry.methods)


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES if entry.name != "CedConfig"])
def test_the_docstring_of_a_class_is_complete(name: str) -> None:
    cls = resolve(name)
    docstring = parse_docstring(cls.__doc__)
    assert docstring.sections[""].strip()
    check_parameters(cls.__init__, docstring)
    check_returns_and_raises(cls.__init__, docstring)


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_the_docstring_of_a_method_is_complete(name: str, method: str) -> None:
    function = inspect.unwrap(getattr(resolve(name), method))
    docstring = parse_docstring(function.__doc__)
    assert docstring.sections[""].strip()
    check_parameters(function, docstring, extra=FORWARD_KWARGS if method == "forward" else set())
    check_returns_and_raises(function, docstring)


def own_fields() -> set[str]:
    """The fields that CedConfig adds to transformers' configuration or overrides."""
    annotations = inspect.get_annotations(CedConfig)
    return {name for name, hint in annotations.items() if hint is not ClassVar and get_origin(hint) is not ClassVar}


def test_every_field_of_the_configuration_is_documented_with_its_true_default() -> None:
    documented = parse_docstring(CedConfig.__doc__).parameters
    assert documented.keys() == own_fields() | INHERITED_FIELDS
    assert own_fields() <= {field.name for field in dataclasses.fields(CedConfig)}
    config = CedConfig()
    for name, entry in documented.items():
        assert entry.is_optional and entry.description.strip(), name
        if entry.default is not None:
            check_default(name, entry.default, getattr(config, name))
        else:
            assert CedConfig.__dataclass_fields__[name].default is None, f"{name}: has a default"


def test_the_choices_of_a_field_are_all_documented() -> None:
    documented = parse_docstring(CedConfig.__doc__).parameters
    for name in ("pooling", "eval_avg", "problem_type"):
        hint = inspect.get_annotations(CedConfig)[name]
        choices = [choice for part in (hint, *get_args(hint)) for choice in get_args(part) if isinstance(choice, str)]
        assert len(choices) > 1
        assert all(f'`"{choice}"`' in documented[name].description for choice in choices), name


def test_every_exception_of_the_configuration_is_documented() -> None:
    raises = parse_docstring(CedConfig.__doc__).sections["Raises"]
    for fields in ({"name": "ced-huge"}, {"num_labels": 0}, {"pooling": "sum"}, {"num_heads": 5}, {"depth": "twelve"}):
        with pytest.raises(Exception) as caught:
            CedConfig(**fields)
        names = {cls.__name__ for cls in type(caught.value).__mro__} - {"Exception", "BaseException", "object"}
        assert any(re.search(rf"[`.]{name}`", raises) for name in names), f"{fields}: {names}"


def test_the_published_figures_are_those_of_the_paper() -> None:
    model_card = importlib.import_module("ced_model.model_card")
    rows = re.findall(
        r"^\| \[mispeech/(ced-\w+)\]\S+ \| (\d+) \| (\d+) \| .*? \| ([\d.]+) \| ([\d.]+) \|$",
        (ROOT / "docs" / "ced.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    sizes = {name: {"embed_dim": int(width), "num_heads": int(heads)} for name, width, heads, _, _ in rows}
    assert sizes == importlib.import_module("ced_model.configuration_ced").CED_SIZES
    figures = {name: (float(audioset), float(balanced)) for name, _, _, audioset, balanced in rows}
    assert figures == model_card.PUBLISHED_FIGURES


def test_a_wrong_comment_behind_a_print_is_noticed() -> None:
    run_snippet(Snippet("x = 1\nprint(x)  # 1\n", 3), Path("page.md"), {})
    with pytest.raises(AssertionError, match="page.md:4 says '2' but prints '1"):
        run_snippet(Snippet("x = 1\nprint(x)  # 2\n", 3), Path("page.md"), {})
    with pytest.raises(AssertionError, match="Expected"):
        run_snippet(Snippet(">>> 1\n2\n", 3), Path("page.md"), {})


def test_an_incomplete_docstring_is_noticed() -> None:
    def scale(values: list[float], factor: float = 2.0) -> list[float]:
        """
        Scales.

        Args:
            values (`list[float]`):
                What to scale.
            factor (`float`, *optional*, defaults to 3.0):
                By how much.
        """
        return [value * factor for value in values]

    docstring = parse_docstring(scale.__doc__)
    assert docstring.parameters.keys() == {"values", "factor"}
    with pytest.raises(AssertionError, match=r"defaults? to 3.0, but its default is 2.0"):
        check_parameters(scale, docstring)
    with pytest.raises(AssertionError):
        check_returns_and_raises(scale, docstring)
    del docstring.parameters["values"]
    with pytest.raises(AssertionError):
        check_parameters(scale, docstring)
