# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray`: shows the progress of a run on a Ray cluster."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .. import distributed
from ..messages import printable
from .endings import end_with
from .model import announce, choose_model, quieten
from .progress import RunProgress
from .terminal import say, say_error

if TYPE_CHECKING:
    from ..tagger import AudioTagger


def tag_on_ray(paths: list[str], output: str, *, model: str | None, **options: Any) -> RunProgress:
    model = choose_model(model)
    quieten()
    observer = Observer()
    with _report_death(f"{output}: continue with --resume"):
        try:
            distributed.tag_on_ray(paths, output, model=model, observer=observer, **options)
        finally:
            observer.progress.__exit__(None, None, None)
    return observer.progress


class Observer(distributed.RunObserver):
    """Prints on stderr."""

    def __init__(self) -> None:
        self.progress = RunProgress(0)

    def note(self, line: str) -> None:
        say(line)

    def loaded(self, tagger: "AudioTagger") -> None:
        announce(tagger)

    def begin(self, total: int) -> None:
        self.progress = RunProgress(total).__enter__()

    def tagged(self, inputs: int, audio_s: float, failures: list[dict[str, str]]) -> None:
        self.progress.add_audio(audio_s)
        for failure in failures:
            with self.progress.hidden():
                say_error(failure["file"], failure["error"])
        for index in range(inputs):
            self.progress.count(failed=index < len(failures))

    def failed(self, error: BaseException) -> None:
        self.progress.__exit__(None, None, None)
        end_with(error)


@contextmanager
def _report_death(advice: str) -> Iterator[None]:
    """
    Starts a process that prints a line if this one ends without leaving the context.

    If Ray loses the head of the cluster, its C++ code ends the process, and no Python code runs.
    """
    line = f"ced: Ray or the system ended this process; results so far are in {printable(advice)}"
    script = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
    try:
        watcher = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", script, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr.fileno(),
            start_new_session=True,  # not ended by Ctrl-C; on Windows the same:
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError:  # stderr is not a file, or no process can be started
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            watcher.communicate(b"left")
