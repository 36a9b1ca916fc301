# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The common tests of transformers, from the source distribution of the installed version.

The wheel of transformers does not include them. pip downloads the source distribution once per version, and its
`tests/` is kept in a cache folder.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import pytest
import transformers

PACKAGE = "transformers_common_tests"
CACHE_VARIABLE = "CED_MODEL_TEST_CACHE"

# Fields of all configurations, with values other than their defaults.
CONFIG_COMMON_KWARGS: dict[str, Any] = {
    "architectures": ["CedForAudioClassification"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "hum"},
    "is_encoder_decoder": True,
    "label2id": {"hum": 0},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}

# Imports of the common tests that are not in the source distribution. The mixins test exporters and text generation.
STAND_INS: dict[str, dict[str, Any]] = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": CONFIG_COMMON_KWARGS},
}


class CommonTestsUnavailableError(RuntimeError):
    """Raised if the source distribution of the installed transformers cannot be downloaded."""


def import_common_tests(module: str) -> Any:
    """
    Imports a module of transformers' common tests, such as `"test_modeling_common"`.

    Raises:
        `CommonTestsUnavailableError`: if it is not in the cache and pip cannot download it; the message has the reason.
    """
    if PACKAGE not in sys.modules:
        import_package(common_tests_folder(transformers.__version__))
    with warnings.catch_warnings():
        # transformers registers its markers in a conftest.py that the source distribution lacks.
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
        return importlib.import_module(f"{PACKAGE}.{module}")


def import_package(folder: Path) -> None:
    """Makes the modules in `folder`, and stand-ins for missing ones, importable as `PACKAGE`."""
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    for name, members in STAND_INS.items():
        if not folder.joinpath(*name.split(".")).with_suffix(".py").exists():
            stand_in = ModuleType(f"{PACKAGE}.{name}")
            vars(stand_in).update(members)
            sys.modules[stand_in.__name__] = stand_in


def common_tests_folder(version: str) -> Path:
    """The `tests/` of transformers `version`, downloaded if it is not in the cache."""
    folder = cache_folder() / f"transformers-{version}-tests"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            archive = download_source_distribution(version, Path(scratch))
            unpacked = Path(scratch) / "tests"
            unpack_tests(archive, unpacked)
            move_into_place(unpacked, folder)
    return folder


def cache_folder() -> Path:
    """`$CED_MODEL_TEST_CACHE`, or `ced_model` in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache, "ced_model")


def download_source_distribution(version: str, folder: Path) -> Path:
    """Lets pip put the source distribution of transformers `version` into `folder`; returns the archive's path."""
    # pip also reads the metadata, for which it installs the build requirements separately.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformers"]
    command += ["--dest", str(folder), f"transformers=={version}"]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    archive = next(folder.glob("*.tar.gz"), None)
    if pip.returncode != 0 or archive is None:
        reasons = [line for line in pip.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise CommonTestsUnavailableError(
            f"transformers' common tests come from the source distribution of transformers {version}, which pip could"
            f" not fetch ({reasons[-1].strip() if reasons else 'no archive'}). Connect to a package index once, or set"
            f" PIP_FIND_LINKS to a folder that has it; the tests are then kept in {cache_folder()}"
            f" (${CACHE_VARIABLE} chooses another folder)."
        )
    return archive


def unpack_tests(archive: Path, folder: Path) -> None:
    """Writes the files under `tests/` of a source distribution into `folder`, as a Python package."""
    with tarfile.open(archive) as source:
        for member in source:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or parts[1:2] != ("tests",) or ".." in parts:
                continue
            content = source.extractfile(member)
            assert content is not None
            target = folder.joinpath(*parts[2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    folder.joinpath("__init__.py").touch()


def move_into_place(unpacked: Path, folder: Path) -> None:
    """Renames `unpacked` to `folder`, unless another process has done so in the meantime."""
    try:
        os.replace(unpacked, folder)
    except OSError:
        if not folder.is_dir():
            raise
