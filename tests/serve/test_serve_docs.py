# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands and snippets of docs/serving.md print the documented output."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from served import Served
from test_docs import find_snippets, run_snippet

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (curl .+)\n(.+)$", TEXT, re.MULTILINE)


def curl(server: Served, command: str) -> Any:
    """Runs a `curl` command with the options that are used in the page."""
    words = iter(shlex.split(command)[1:])
    request: dict[str, Any] = {"data": {}, "headers": {}}
    url = ""
    for word in words:
        if word == "-F":
            name, _, value = next(words).partition("=")
            if value.startswith("@"):
                request["files"] = {name: (Path(value[1:]).name, Path(value[1:]).read_bytes())}
            else:
                request["data"][name] = value
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            request["headers"][name] = value
        elif word == "--data-binary":
            del request["data"]
            request["content"] = Path(next(words)[1:]).read_bytes()
        else:
            url = word.removeprefix("localhost:8080")
    return server.post(url, **request).json()


def approximate(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: approximate(each) for name, each in value.items()}
    if isinstance(value, list):
        return [approximate(each) for each in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


@pytest.mark.parametrize(("command", "answer"), COMMANDS)
def test_the_commands_of_the_page_print_the_documented_output(server: Served, command, answer, monkeypatch):
    monkeypatch.chdir(PAGE.parents[1])
    assert curl(server, command) == approximate(json.loads(answer))


def test_the_snippets_of_the_page_print_the_documented_output(server: Served, monkeypatch):
    monkeypatch.chdir(PAGE.parents[1])
    monkeypatch.setenv("NO_PROXY", "localhost")
    text = TEXT.replace("```Python", "```python")  # test_docs.py cannot run these, because they need a server
    snippets = find_snippets(text.replace("localhost:8080", f"127.0.0.1:{server.port}"))
    assert len(snippets) == 2
    names: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets:
        run_snippet(snippet, PAGE, names)


def test_the_options_of_the_page_are_those_of_the_command():
    from typer.testing import CliRunner

    from ced_model.cli.app import app

    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout
    used = [option for line in re.findall("ced serve .*", TEXT) for option in re.findall("--[a-z-]+", line)]
    options = {*used, *re.findall(r"^\| `(--[a-z-]+)`", TEXT, re.MULTILINE)}
    assert len(options) > 10 and [option for option in options if f"{option} " not in shown] == []
