# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The source of transformers' common tests is downloaded safely and completely."""

import io
import os
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import common_tests_source
import pytest

VERSION = "0.0.0"


def make_source_distribution(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("transformers-0.0.0/tests/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(common_tests_source.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def source_distribution(tmp_path: Path) -> Path:
    files = {
        "transformers-0.0.0/setup.py": b"raise SystemExit",
        "transformers-0.0.0/src/transformers/__init__.py": b"",
        "transformers-0.0.0/tests/test_one.py": b"ONE = 1\n",
        "transformers-0.0.0/tests/deep/er/test_two.py": b"TWO = 2\n",
        "transformers-0.0.0/tests/../../escaped.py": b"",
    }
    return make_source_distribution(tmp_path / "sdist.tar.gz", files)


def test_only_regular_files_below_tests_are_unpacked(tmp_path: Path, source_distribution: Path) -> None:
    folder = tmp_path / "unpacked" / "tests"
    common_tests_source.unpack_tests(source_distribution, folder)
    unpacked = {str(path.relative_to(tmp_path / "unpacked")) for path in (tmp_path / "unpacked").rglob("*.py")}
    assert unpacked == {"tests/__init__.py", "tests/test_one.py", "tests/deep/er/test_two.py"}
    assert not list(tmp_path.rglob("escaped.py"))


def test_concurrent_processes_share_one_complete_folder(
    cache: Path, source_distribution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_are_downloading = threading.Barrier(8)

    def download(version: str, folder: Path) -> Path:
        all_are_downloading.wait(timeout=300)
        return Path(shutil.copy(source_distribution, folder))

    monkeypatch.setattr(common_tests_source, "download_source_distribution", download)
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(common_tests_source.common_tests_folder, [VERSION] * 8))
    (folder,) = folders
    assert (folder / "deep" / "er" / "test_two.py").read_bytes() == b"TWO = 2\n"
    assert os.listdir(cache) == [folder.name]


def test_a_truncated_archive_leaves_nothing_in_the_cache(
    cache: Path, source_distribution: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(version: str, folder: Path) -> Path:
        archive = folder / "cut.tar.gz"
        archive.write_bytes(source_distribution.read_bytes()[:-40])
        return archive

    monkeypatch.setattr(common_tests_source, "download_source_distribution", download)
    with pytest.raises((EOFError, tarfile.TarError)):
        common_tests_source.common_tests_folder(VERSION)
    assert os.listdir(cache) == []


def test_without_an_index_the_error_has_the_remedy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(common_tests_source.CommonTestsUnavailableError) as caught:
        common_tests_source.common_tests_folder(VERSION)
    message = str(caught.value)
    assert "No matching distribution found for transformers==0.0.0" in message
    assert "PIP_FIND_LINKS" in message and str(cache) in message and "\n" not in message
    assert os.listdir(cache) == []
