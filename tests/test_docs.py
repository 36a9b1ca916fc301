# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The documentation is correct: every snippet runs, and every argument of the public classes is documented.

Snippets run offline in a folder with small random checkpoints named `mispeech/ced-*` and a copy of `resources/`. Those
of one file run in order and share variables. A comment after a `print` is its output; examples with `>>>` are doctests.
"""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import re
import shutil
import socket
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
import torch
from transformers import PreTrainedConfig, Trainer, TrainingArguments

import ced_model
from ced_model import CedConfig, CedFeatureExtractor, CedForAudioClassification

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("README.md")]
SOURCES = sorted((ROOT / "ced_model").glob("**/*.py"))
SIZES = ("tiny", "mini", "small", "base")
OUTPUT_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Snippet(NamedTuple):
    """A Python block of a file."""

    code: str
    line: int  # of its first line, from 1


def find_snippets(text: str, first_line: int = 1) -> list[Snippet]:
    """The fenced Python blocks of a Markdown text, or of a docstring, that starts at `first_line` of its file."""
    found = re.finditer(r"^([ \t]*)```(?:python|py)[ \t]*\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [Snippet(textwrap.dedent(match[2]), first_line + text[: match.start(2)].count("\n")) for match in found]


def run_snippet(snippet: Snippet, path: Path, names: dict[str, Any]) -> None:
    """Runs a block in the namespace `names`; raises an AssertionError if its output is not the shown one."""
    if snippet.code.lstrip().startswith(">>>"):
        run_doctest(snippet, path, names)
    else:
        run_statements(snippet, path, names)


def run_doctest(snippet: Snippet, path: Path, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(snippet.code, names, path.name, str(path), snippet.line - 1)
    test.globs = names  # the parser copies them, but later blocks use these variables
    report = io.StringIO()
    failed, _ = doctest.DocTestRunner(optionflags=OUTPUT_FLAGS).run(test, out=report.write, clear_globs=False)
    assert not failed, report.getvalue()


def run_statements(snippet: Snippet, path: Path, names: dict[str, Any]) -> None:
    # Leading blank lines give errors the line numbers of the file.
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


def find_entries(text: str) -> dict[str, list[str]]:
    """The classes of `[[autodoc]]` entries with their methods."""
    found = re.finditer(r"^\[\[autodoc\]\] (\S+)\n((?:    - \w+\n?)*)", text, flags=re.MULTILINE)
    return {match[1]: re.findall(r"- (\w+)", match[2]) for match in found}


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


@pytest.fixture(scope="session")
def class_folders(resources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small stand-in for ESC-50 with class folders: three classes with five recordings each, at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("esc50")
    for name in ("misc_burp", "misc_crow", "perc_snap"):
        samples, sampling_rate = soundfile.read(resources / f"{name}.flac")
        (folder / name).mkdir()
        for index in range(5):
            soundfile.write(folder / name / f"{index}.wav", samples / (index + 1), sampling_rate)
    return folder


@pytest.fixture
def workplace(
    checkpoints: Path, class_folders: Path, resources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """A working directory with all files of the snippets, without network access; returns their namespace."""

    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"a snippet connects to {address}")

    shutil.copytree(resources, tmp_path / "resources")
    (tmp_path / "mispeech").symlink_to(checkpoints / "mispeech", target_is_directory=True)
    (tmp_path / "esc50").symlink_to(class_folders, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.manual_seed(0)
    return {"__name__": "__main__"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_snippet_of_a_page_runs_and_prints_the_shown_output(page: Path, workplace: dict[str, Any]) -> None:
    for snippet in find_snippets(page.read_text(encoding="utf-8")):
        run_snippet(snippet, page, workplace)


def test_old_names_of_the_training_notebook_are_type_errors_as_in_the_migration_page(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    assert "eval_strategy" in text and "processing_class" in text
    with pytest.raises(TypeError, match="evaluation_strategy"):
        TrainingArguments(str(tmp_path), evaluation_strategy="epoch")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="tokenizer"):
        Trainer(tokenizer=CedFeatureExtractor())  # type: ignore[call-arg]


def test_the_model_card_snippet_with_torchaudio_runs_where_torchaudio_reads_files(
    workplace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippet requires torchcodec, which is replaced by a function with the same result."""

    def load(path: str) -> tuple[torch.Tensor, int]:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate

    page = ROOT / "docs" / "ced.md"
    (block,) = re.findall(r"^```python3\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    waveform, rate = ced_model.load_audio("resources/misc_crow.flac")
    soundfile.write("clip.wav", waveform, rate, subtype="FLOAT")
    monkeypatch.setattr("torchaudio.load", load)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, workplace)
    model, extractor = workplace["model"], workplace["feature_extractor"]
    logits = model(**extractor(waveform, sampling_rate=rate, return_tensors="pt")).logits
    assert torch.equal(workplace["logits"], logits) and printed.getvalue().strip() in model.config.id2label.values()


def find_documented(source: Path) -> Iterator[tuple[str, list[Snippet]]]:
    """The docstrings of a module that have snippets."""
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
def test_every_example_of_a_docstring_runs_and_prints_the_shown_output(
    source: Path, snippets: list[Snippet], workplace: dict[str, Any]
) -> None:
    for snippet in snippets:
        run_snippet(snippet, source, workplace)


def test_the_model_page_documents_the_public_classes_and_every_argument() -> None:
    text = (ROOT / "docs" / "ced.md").read_text(encoding="utf-8")
    entries = find_entries(text)
    models = {"CedModel", "CedForAudioClassification", "CedForAudioFrameClassification"}
    assert {"CedConfig", "CedFeatureExtractor", "CedAudioClassificationPipeline", *models} == entries.keys()
    for name, methods in entries.items():
        documented = getattr(ced_model, name)
        assert inspect.isclass(documented) and all(hasattr(documented, method) for method in methods)
        for function in (documented, *(inspect.unwrap(getattr(documented, method)) for method in methods)):
            parameters = inspect.signature(function).parameters.values()
            named = [part.name for part in parameters if part.kind is not part.VAR_KEYWORD and part.name != "self"]
            inherited = set(dir(PreTrainedConfig)) | {"args"} if name == "CedConfig" else {"args"}
            missing = [part for part in named if part not in inherited and f"{part} (" not in (function.__doc__ or "")]
            assert not missing, f"{name}: {missing}"
            twice = [part for part in named if len(re.findall(rf"^\s*{part} \(", function.__doc__ or "", re.M)) > 1]
            assert not twice, f"{name}: {twice}"  # transformers adds its own text if it does not find ours


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


def test_a_wrong_comment_after_a_print_is_detected() -> None:
    run_snippet(Snippet("x = 1\nprint(x)  # 1\n", 3), Path("page.md"), {})
    with pytest.raises(AssertionError, match="page.md:4 says '2' but prints '1"):
        run_snippet(Snippet("x = 1\nprint(x)  # 2\n", 3), Path("page.md"), {})
    with pytest.raises(AssertionError, match="Expected"):
        run_snippet(Snippet(">>> 1\n2\n", 3), Path("page.md"), {})
