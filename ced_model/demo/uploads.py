# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The folder of a server's uploads and results. It is deleted when the server ends, or else by the next server.

Gradio itself uses one folder for all servers of a machine, and does not delete incomplete uploads.
"""

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from threading import Event, Thread

from filelock import FileLock, Timeout

PREFIX = "ced-demo-"
VARIABLE = "GRADIO_TEMP_DIR"  # Gradio reads the folder from this variable
YOUNG_S = 60  # younger folders may not be locked yet


class Uploads:
    """
    Creates the folder, and removes those of killed servers. A process can have one at a time.

    Args:
        kept_s: Seconds after which files are removed.
    """

    def __init__(self, kept_s: float) -> None:
        self._before = os.environ.get(VARIABLE)
        base = Path(self._before or tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(base)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base)).resolve()
        self._lock = FileLock(self._folder / "lock")
        self._lock.acquire()  # released by the operating system when the process ends
        self.path = self._folder / "uploads"
        self.path.mkdir()
        os.environ[VARIABLE] = str(self.path)
        self._ended = Event()
        Thread(target=self._remove_old, args=(kept_s,), daemon=True).start()

    def close(self) -> None:
        """Removes the folder."""
        self._ended.set()
        if self._before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = self._before
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_old(self, kept_s: float) -> None:
        while not self._ended.wait(kept_s / 4):
            remove_old(self.path, kept_s)


def remove_old(folder: Path, kept_s: float) -> None:
    """Removes older files, including incomplete uploads, and empty folders."""
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folder
        try:
            if path.stat().st_ctime < time.time() - kept_s:
                path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # not empty, or gone
            continue


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{PREFIX}*"):
        try:
            status = folder.lstat()
            is_ours = stat.S_ISDIR(status.st_mode) and (os.name != "posix" or status.st_uid == os.getuid())
            if not is_ours or status.st_mtime > time.time() - YOUNG_S:
                continue
            with FileLock(folder / "lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):
            continue
