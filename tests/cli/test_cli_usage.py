# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Help, suggestions for mistakes, shell completion and `ced doctor`."""

import errno
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from ced_model.cli import completion, doctor
from ced_model.cli.app import app
from ced_model.cli.endings import fail
from ced_model.engines import PACKAGES
from ced_model.exporting.formats import FORMATS
from ced_model.hub import PUBLISHED_MODELS

REPOSITORY = Path(__file__).parents[2]


def ced(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, arguments, prog_name="ced", env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == code, result.stderr
    return result


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_its_examples_are_right(path: tuple[str, ...]) -> None:
    lines = ced(*path, "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80 and lines == ced("help", *path).stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line in ("Example:", "Examples:"))
    examples = "\n".join(lines[start + 1 :]).replace("\\\n", " ").strip().splitlines()
    for example in examples:
        name, *arguments = shlex.split(example)
        assert name == "ced" and tuple(arguments[: len(path)]) == path
        COMMANDS[path].make_context(" ".join(path), arguments[len(path) :])  # ends the process if one is wrong


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("file.wav", "to tag it, run ced tag file.wav"),
        ("sounds/ --top-k 3", "to tag it, run ced tag sounds/ --top-k 3"),
        ("*.wav", "to tag it, run ced tag *.wav"),
        ("tga x", "did you mean ced tag?"),
        ("classify x", "did you mean ced tag?"),
        ("teach x", "did you mean ced distill teach?"),
        ("distill trian", "did you mean ced distill train?"),
        ("version", "did you mean ced --version?"),
        ("qwertz", "see ced --help"),
        ("--model x tag y", "put options after the command"),
        ("tag x --verbose", "always shown, on standard error"),
        ("tag x --recursive", "always searched recursively"),
        ("tag x --threshhold 1", "did you mean --threshold or --thresholds?"),
        ("tag x --min-conf=1", "did you mean --threshold?"),
        ("tag x --output-dir y", "did you mean --output?"),
        ("tag x --top_k 1", "did you mean --top-k?"),
        ("tag x -threshold 1", "-threshold: did you mean --threshold?"),
        ("tag x --csv", "use --format csv"),
        ("finetune x --lr 1", "did you mean --learning-rate?"),
        ("labels dog --window 1", "it is an option of ced tag, ced clips, ced plot and other commands"),
        ("embed x --events", "it is an option of ced tag, ced listen, ced finetune and ced evaluate"),
        ("tag x --qwertz", "see ced tag --help"),
        ("tag x --format", "--format requires a value; see ced tag --help"),
        ("tag x --json=1", "--json takes no value"),
        ("tag x --format xml", "--format xml: expected table, json, "),
        ("tag x --top-k many", "--top-k many: expected a whole number from 1"),
        ("demo --port=99999", "--port 99999: expected a whole number from 1 to 65535"),
        ("clips x --padding long", "--padding long: expected a number"),
        ("plot", "missing FILE: ced plot [OPTIONS] FILE"),
        ("plot .", "ced: .: expected a file, not a folder"),
        ("tag x --thresholds .", "--thresholds .: expected a file, not a folder"),
        ("tag x --output .", "--output .: expected a file; only --format audacity|"),
        ("export -f onnx -o pyproject.toml", "--output pyproject.toml: expected a folder, not a file"),
        ("plot a b", "unexpected argument b"),
        ("tag", "no input: give files, folders, patterns"),
    ],
)
def test_a_mistake_is_one_line_with_a_suggestion(
    arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    done = ced(*arguments.split(), code=2)
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ced: ") and expected in done.stderr


@pytest.mark.parametrize("way", ["~/x.wav", "--from=~/x.txt", "--from ~/x.txt"])
def test_a_tilde_that_the_shell_does_not_expand_is_the_home_folder(
    way: str, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.wav").write_bytes(clip.read_bytes())
    (tmp_path / "x.txt").write_text(str(tmp_path / "x.wav"))
    output = tmp_path / "x.json"
    ced("tag", *way.split(), "--output=~/x.json")
    assert json.loads(output.read_text())[0]["file"] == str(tmp_path / "x.wav")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ced ev", ["evaluate"]),
        ("ced tag x --thr", ["--threads", "--threshold", "--thresholds"]),
        ("ced tag x -m mispeech/ced-t", ["mispeech/ced-tiny"]),
        ("ced tag x -m models/", ["models/mine"]),
        ("ced tag x --format pa", ["parquet"]),
        ("ced export -f o", ["onnx", "openvino"]),
        ("ced tag x -l Dog,Chu", ["Dog,Chuckle,\\ chortle", "Dog,Church\\ bell"]),
    ],
)
def test_bash_completes_commands_options_models_formats_and_classes(
    line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    words = line.split(" ")
    variables = {"_CED_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    result = CliRunner().invoke(app, prog_name="ced", env=variables)
    assert result.stdout.split("\n")[: len(expected)] == expected


def test_completion_scripts_are_printed_for_a_shell() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ced_model", "--show-completion", "bash"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
    )
    assert "complete -o default -F _ced_completion ced" in done.stdout


def test_completions_are_valid_values() -> None:
    assert tuple(f"mispeech/ced-{size}" for size in completion.SIZES) == PUBLISHED_MODELS
    assert set(completion.complete_export_format("")) == set(FORMATS)


def test_doctor_describes_the_installation_without_private_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    done = ced("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["self_test"] == {"name": "ced-nano", "engine": "onnx", "compute_type": "float32", "device": "cpu"}
    assert found["packages"]["numpy"]["version"] and "FLAC" in found["decoders"]["formats"]
    assert found["environment"]["HF_TOKEN"] == "set" and found["hub"]["has_token"]
    monkeypatch.setattr(doctor, "examine", lambda imports: found)
    shown = ced("doctor").stdout
    assert "Self-test    ced-nano, onnx float32 on cpu: ok\n" in shown
    for text in (done.stdout, shown):
        assert "secret" not in text and "hub.example.org" not in text and str(tmp_path.parent) not in text


def test_doctor_reports_broken_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "soxr.py").write_text("import os; os._exit(7)")
    (tmp_path / "onnx.py").write_text(f"raise RuntimeError('broken: {Path.home()}/secret/x.so')")
    monkeypatch.syspath_prepend(tmp_path)

    def version(name: str) -> str:
        if name == "numpy":
            raise KeyError("Version")
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    found = doctor.examine()
    assert "error" in found["self_test"]
    assert found["packages"]["numpy"] == {"error": "KeyError: 'Version'"}
    assert doctor._result(doctor._start("import soxr")) == {"error": "ended with exit code 7"}
    assert doctor._result(doctor._start("import onnx")) == {"error": "RuntimeError: broken: ~/secret/x.so"}
    assert any("error: KeyError" in line for line in doctor._lines(found))


def test_doctor_lists_the_packages_of_all_extras() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert doctor.ENGINES == PACKAGES
    assert set(doctor.EXTRAS) == set(extras) - {"all", "dev", "docs", "psds", "test"}
    for name, packages in doctor.EXTRAS.items():
        own = {text.partition("[")[0].partition(">")[0] for text in extras[name]} - {"ced_model"}
        assert own <= set(packages), name


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ("tag {sound} -o", "a.csv"),
        ("tag {sound} --overwrite -o", "a.csv"),
        ("tag {sound} -f audacity -o", "notes"),
        ("tag {sound} -f audacity -o", "."),
        ("embed {sound} -o", "a.npz"),
        ("clips {sound} -o", "clips"),
        ("plot {sound} -o", "a.png"),
        ("search {sound} {sound} --clips", "clips"),
        ("learn sounds -o", "model"),
        ("finetune {folder} -o", "model"),
        ("evaluate {folder} --per-class", "a.csv"),
        ("convert source", "model"),
        ("export --format onnx -o", "export"),
    ],
)
def test_an_output_that_cannot_be_written_is_reported_before_any_work(
    arguments: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mkdir(path: Any, *_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    sound = str(REPOSITORY / "resources" / "misc_crow.flac")
    given = [part.format(sound=sound, folder=tmp_path) for part in arguments.split()]
    monkeypatch.setattr(os, "mkdir", mkdir)
    result = ced(*given, str(tmp_path / output), code=1)
    assert result.stderr == f"ced: {str(tmp_path / output)!r}: Permission denied\n"
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_shown_as_flags(capsys: Any) -> None:
    with pytest.raises(typer.Exit):
        fail("use `overwrite=True`, `window_s=…` or `labels`", 1)
    assert capsys.readouterr().err == "ced: use --overwrite, --window or `labels`\n"
