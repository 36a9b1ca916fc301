# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The release: version and data files of the package, and automation that runs the same commands."""

import re
import shlex
import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path

import yaml

import ced_model
from ced_model.packages import REQUIREMENTS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_defined_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "ced_model.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == ced_model.__version__
    assert f"{ced_model.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_wheel_has_every_data_file_of_the_package():
    listed = subprocess.run(["git", "ls-files", "ced_model"], cwd=ROOT, capture_output=True, text=True).stdout.split(
        "\n"
    )
    package = ROOT / "ced_model"
    # An unpacked source distribution is not a git repository.
    files = {ROOT / name for name in listed if name} or {path for path in package.rglob("*") if path.is_file()}
    data = {path for path in files if path.suffix not in (".py", ".pyc") and path.exists()}
    packed = set()
    for name, patterns in PROJECT["tool"]["setuptools"]["package-data"].items():
        folder = ROOT.joinpath(*name.split("."))
        packed |= {path for pattern in patterns for path in folder.glob(pattern)}
    assert data - packed == set()
    assert package / "py.typed" in packed


def test_the_full_installation_includes_the_small_one():
    def lines(name: str) -> set[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        return {line for line in text.splitlines() if line and not line.startswith("#")}

    assert lines("requirements-lite.txt") <= lines("requirements.txt")


def test_every_extra_is_in_all_and_has_its_packages_among_the_tested_versions():
    extras = PROJECT["project"]["optional-dependencies"]
    everything = re.fullmatch(r"ced_model\[(.*)\]", extras["all"][0])
    assert everything and set(everything[1].split(",")) == extras.keys() - {
        "all",
        "dev",
        "docs",
        "psds",
        "test",
    }  # psds requires an older pandas
    tested = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    names = {
        re.split(r"[\[<>=]", each)[0]
        for name, packages in extras.items()
        if name not in ("dev", "psds")
        for each in packages
    }
    assert {name for name in names - {"ced_model"} if f"\n{name}==".lower().replace("_", "-") not in tested} == set()
    assert requires("ced_model") is not None


def test_install_commands_of_messages_have_the_requirements_of_the_extras():
    extras = PROJECT["project"]["optional-dependencies"]
    for module, extra in (("ray", "ray"), ("sed_scores_eval", "psds")):
        assert set(shlex.split(REQUIREMENTS[module])) == {
            item for item in extras[extra] if not item.startswith("ced_model[")
        }


def test_workflows_and_hooks_run_the_commands_of_ci_run_and_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    steps = {job: [step.get("run", "") for step in each["steps"]] for job, each in workflow["jobs"].items()}
    assert ".ci/run" in steps["as-in-the-readme"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if re.match(r"python3 -m venv .* pytest", line))
    assert steps["versions"][-1] in command and steps["small-installation"][-1] in readme
    linters = re.findall(r"^\.venv/bin/(.*)$", (ROOT / ".ci/run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert linters and all(f"\t{linter}\n" in makefile for linter in linters)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {linter.split()[0] for linter in linters}
    docs = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text(encoding="utf-8"))
    assert "make docs" in [step.get("run") for step in docs["jobs"]["site"]["steps"]]
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text(encoding="utf-8"))
