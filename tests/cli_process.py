# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the `ced` command in a separate process."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

Stream = str | Path | int | None  # a path, a file descriptor, or None for a closed stream (`>&-`)


class Process(subprocess.Popen[bytes]):
    """A process with the names that `multiprocessing` has for its state."""

    @property
    def exitcode(self) -> int | None:
        return self.poll()

    def is_alive(self) -> bool:
        return self.poll() is None

    def join(self, timeout: float | None = None) -> None:
        self.wait(timeout)


def start(
    arguments: Sequence[str | Path],
    *,
    stdin: Stream = os.devnull,
    stdout: Stream = os.devnull,
    stderr: Stream = os.devnull,
    max_file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Starts `ced ARGUMENTS…` with standard streams that are files or terminals."""
    streams = (stdin, stdout, stderr)
    flags = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)
    opened = [
        os.open(os.devnull, os.O_RDWR)
        if stream is None
        else os.dup(stream)
        if isinstance(stream, int)
        else os.open(stream, flag, 0o644)
        for stream, flag in zip(streams, flags, strict=True)
    ]

    def prepare() -> None:
        for number, stream in enumerate(streams):
            if stream is None:
                os.close(number)
        if max_file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))

    try:
        return Process(
            [sys.executable, "-m", "ced_model", *map(str, arguments)],
            stdin=opened[0],
            stdout=opened[1],
            stderr=opened[2],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | dict(environment or {}),
            preexec_fn=prepare if None in streams or max_file_size is not None else None,
        )
    finally:
        for descriptor in opened:
            os.close(descriptor)


def run(*arguments: str | Path, code: int = 0, without: str = "") -> subprocess.CompletedProcess[str]:
    """
    Runs `ced ARGUMENTS…` to its end and checks its exit code.

    `imported` of the result has the names of all packages that the process imported. Packages in `without` cannot be
    imported.
    """
    script = (
        "import importlib.util as util, sys\n"
        "output = int(sys.argv.pop(1))\n"
        f"missing, find = {without.split()!r}, util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in missing else find(name, *rest)\n"
        "class Missing:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name in missing: raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from ced_model.cli import main\n"
        "try: main()\n"
        "finally:\n"
        "    open(output, 'w').write(' '.join({name.split('.')[0] for name in sys.modules}))\n"
    )
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", script, str(writing), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        pass_fds=[writing],
    )
    os.close(writing)
    with open(reading) as file:
        done.imported = set(file.read().split())  # type: ignore[attr-defined]
    assert done.returncode == code, done.stderr
    return done
