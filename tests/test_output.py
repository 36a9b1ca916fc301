# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Files and folders are written atomically, and existing ones are replaced only on request."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from ced_model.output import (
    check_writable,
    new_file,
    new_folder,
    put_file,
    remove_abandoned,
    temporary_name,
    write_file,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refuse(folder: Path) -> None:
    if (folder / "precious").exists():
        raise ValueError("precious")


def without_links(*_: Any) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.fixture(params=["links", "no links"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without hard links, as on FAT."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", without_links)


def test_a_file_appears_at_the_end_and_has_the_permissions_of_any_other(file_system: None, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with new_file(tmp_path / "a.csv") as file:
        file.write(b"content")
        assert not (tmp_path / "a.csv").exists()
    assert (tmp_path / "a.csv").read_bytes() == b"content" and names(tmp_path) == ["a.csv", "other"]
    assert (tmp_path / "a.csv").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_file_that_appears_meanwhile_is_kept_and_so_is_the_result(file_system: None, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(FileExistsError) as caught, new_file(path) as file:
        file.write(b"result")
        path.write_bytes(b"mine")
    (kept,) = tmp_path.glob("a-*.csv")
    assert path.read_bytes() == b"mine" and kept.read_bytes() == b"result" and len(names(tmp_path)) == 2
    assert caught.value.filename == str(path) and caught.value.strerror.endswith(f"the result is in {kept}")


def test_files_are_replaced_only_on_request(file_system: None, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_file(path, b"1", replace=False)
    with pytest.raises(FileExistsError):
        write_file(path, b"2", replace=False)
    assert path.read_bytes() == b"1"
    write_file(path, b"3")
    assert path.read_bytes() == b"3" and names(tmp_path) == ["state.json"]


def test_a_failed_write_leaves_no_files_and_the_error_has_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space") as caught, new_file(path, replace=True) as file:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path) and path.read_bytes() == b"before" and names(tmp_path) == ["a.csv"]
    with pytest.raises(FileNotFoundError) as missing, new_file(tmp_path / "no" / "a.csv"):
        pass
    assert missing.value.filename == str(tmp_path / "no" / "a.csv")


def test_links_remain_links_and_long_names_are_possible(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", b"1", replace=False)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"1"
    long = tmp_path / ("x" * 255)
    write_file(long, b"2", replace=False)
    assert long.read_bytes() == b"2"


def test_only_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    left = temporary_name(path)
    others = [tmp_path / name for name in ("a.csv.part", ".a.csv.mine.tmp", ".b.csv.01234567.tmp")]
    for each in (left, *others):
        each.touch()
    remove_abandoned(path)
    assert not left.exists() and all(other.exists() for other in others)


def test_a_folder_replaces_an_empty_one_or_one_that_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for number in range(3):
        with new_folder(path, refuse if number else None) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / f"{number}").touch()
        assert names(tmp_path) == ["model"] and names(path / "sub") == [f"{number}"]


@pytest.mark.parametrize("check", [None, refuse])
def test_a_folder_that_is_filled_meanwhile_is_kept_and_so_is_the_result(check: Any, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(FileExistsError) as caught, new_folder(path, check) as folder:
        (folder / "weights").touch()
        (path / "precious").touch()
    (kept,) = tmp_path.glob("model-*")
    assert names(path) == ["precious"] and names(kept) == ["weights"] and len(names(tmp_path)) == 2
    assert re.fullmatch(f"something else was .*; the result is in {kept}", caught.value.strerror)


def test_a_file_with_the_name_of_the_folder_is_kept(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), new_folder(tmp_path / "model", refuse) as folder:
        (folder / "weights").touch()
        (tmp_path / "model").write_text("mine")
    assert (tmp_path / "model").read_text() == "mine" and len(list(tmp_path.glob("model-*/weights"))) == 1


def test_a_failed_folder_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "model") as folder:
        (folder / "weights").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_the_error_of_a_full_disk_names_the_folder_not_the_copied_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, new_folder(tmp_path / "model"):
        raise OSError(errno.ENOSPC, "No space left on device", "source.py", None, "copy.py")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "model"), None)
    assert names(tmp_path) == []


def test_a_part_is_kept_if_its_name_is_taken(file_system: None, tmp_path: Path) -> None:
    for name in ("part", "taken"):
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        put_file(tmp_path / "part", tmp_path / "taken")
    assert (tmp_path / "part").read_text() == "part" and (tmp_path / "taken").read_text() == "taken"


def test_errors_about_a_new_folder_have_the_name_that_was_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing, new_folder(tmp_path / "no" / "a"):
        raise AssertionError
    with pytest.raises(FileNotFoundError) as inner, new_folder(tmp_path / "a") as folder:
        (folder / "b" / "c").touch()
    with pytest.raises(FileNotFoundError) as other, new_folder(tmp_path / "a"):
        (tmp_path / "x").read_bytes()
    expected = [tmp_path / "no" / "a", tmp_path / "a" / "b" / "c", tmp_path / "x"]
    assert [Path(caught.value.filename) for caught in (missing, inner, other)] == expected


def test_whether_an_output_can_be_written_is_tested_in_the_folder_where_it_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "a.csv")
    check_writable(tmp_path / "no" / "folder" / "a.csv")
    assert names(tmp_path) == []

    def mkdir(path: Any, *_: Any) -> None:
        tried.append(Path(path).parent)
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    tried: list[Path] = []
    monkeypatch.setattr(os, "mkdir", mkdir)
    for path, output in ((tmp_path / "no" / "a", None), (tmp_path / "a.journal", tmp_path / "a")):
        with pytest.raises(PermissionError) as caught:
            check_writable(path, output)
        assert caught.value.filename == str(output or path)
    assert tried == [tmp_path, tmp_path]
