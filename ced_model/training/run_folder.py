# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run, `OUTPUT.training`: its description, checkpoints and logs, locked against other runs."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from ..output import lock_on_windows, write_file

SUFFIX = ".training"
RUN_FILE = "run.json"
LOCK_FILE = "lock"
STATE_FILE = "trainer_state.json"  # written last by Trainer
WEIGHT_FILES = ("model.safetensors", "adapter_model.safetensors")
ARCHIVES = ("optimizer.pt", "scheduler.pt")
# Prefixes of training arguments that do not affect weights, and may differ when a run is resumed.
FREE_ARGUMENTS = ("dataloader_", "logging_", "log_", "report_to", "run_name", "disable_tqdm")


def run_folder_of(output: Path) -> Path:
    """The folder for checkpoints and logs, next to `output`."""
    return output.with_name(output.name + SUFFIX)


@contextmanager
def open_run(
    folder: Path, run: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Path | None]:
    """
    Creates or continues the folder of a run, and locks it within the context.

    Args:
        folder: The folder, see [`run_folder_of`].
        run: Properties that must not change when a run is resumed.
        resume: Whether to continue from the last checkpoint. Without a checkpoint, the run starts from the beginning.
        overwrite: Whether to discard the checkpoints of an earlier run.

    Yields:
        The checkpoint to continue from, if there is one.

    Raises:
        ValueError: if the folder has another run or other files, or is in use.
    """
    run = json.loads(json.dumps(run, default=str))
    run_file = folder / RUN_FILE
    if folder.exists() and not run_file.is_file() and not (folder.is_dir() and _names(folder) <= {LOCK_FILE}):
        raise ValueError(f"{folder} contains files that are not checkpoints: move it, or choose another output.")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK_FILE, "a") as file:
        _lock(file, folder)
        if resume and run_file.is_file():
            _check_same_run(folder, run)
        else:
            if not overwrite and last_checkpoint(folder) is not None:
                raise ValueError(f"{folder} contains the checkpoints of a run: use `resume=True` or `overwrite=True`.")
            _clear(folder)
            write_file(run_file, (json.dumps(run, indent=2, ensure_ascii=False) + "\n").encode())
        yield last_checkpoint(folder)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _lock(file: IO[str], folder: Path) -> None:
    try:
        try:
            import fcntl
        except ImportError:
            lock_on_windows(file.fileno())
        else:  # not `flock`, which data loading workers would inherit; they may outlive a killed run
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise ValueError(f"{folder} is in use by another run: wait until it ends, or choose another output.") from error
    except (ImportError, OSError):  # no locks
        pass


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


def _check_same_run(folder: Path, run: Mapping[str, Any]) -> None:
    try:
        stored = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder} cannot be resumed: its {RUN_FILE} is damaged. Use `overwrite=True`.") from error
    differing = sorted(name for name in {*run, *stored} if stored.get(name) != run.get(name))
    if differing:
        changes = [_change(name, stored.get(name), run.get(name)) for name in differing]
        raise ValueError(
            f"{folder} cannot be resumed, its run differs in {', '.join(changes)}: resume it as it was started, or"
            " use `overwrite=True`."
        )


def _change(name: str, then: Any, now: Any) -> str:
    is_short = not isinstance(then, dict | list) and not isinstance(now, dict | list)
    return f"{name} ({then} then, {now} now)" if is_short else name


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint; later ones, which are incomplete or damaged, are removed."""
    if not folder.is_dir():
        return None
    while (found := get_last_checkpoint(str(folder))) is not None and not is_whole(Path(found)):
        shutil.rmtree(found)
    return None if found is None else Path(found)


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def find_checkpoints(folder: Path) -> dict[int, bool]:
    """The steps of the checkpoints in a folder, in ascending order, and whether each is complete."""
    names = (path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-") for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
    steps = sorted(int(name) for name in names if name.isdecimal())
    return {step: _is_complete(checkpoint_path(folder, step)) for step in steps}


def is_whole(checkpoint: Path) -> bool:
    """Whether weights, optimizer and state exist, and are not damaged as far as that can be checked."""
    return _is_complete(checkpoint) and all(_is_sound(checkpoint / name) for name in ARCHIVES)


def _is_complete(checkpoint: Path) -> bool:
    """Whether the state, which is written last, exists, and the weights are as long as in their header."""
    try:
        json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        (weights,) = (checkpoint / name for name in WEIGHT_FILES if (checkpoint / name).exists())
        with safe_open(weights, "pt"):
            return True
    except (OSError, ValueError, SafetensorError):
        return False


def _is_sound(archive: Path) -> bool:
    """Whether the checksums of a torch archive are right; torch does not verify them."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.testzip() is None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError):
        return False
