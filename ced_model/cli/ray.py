# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced tag --ray`: shows how a run on a Ray cluster proceeds."""

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
    """Tags inputs on a cluster, with the options of `ced_model.distributed.tag_on_ray`."""
    model = choose_model(model)
    quieten()
    observer = Observer()
    with told_if_ended(f"{output}: --resume continues"):
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
def told_if_ended(advice: str) -> Iterator[None]:
    """
    Has another process print a line if this one ends without leaving the context.

    Ray ends it from C++ if it loses the head of the cluster, and nothing here is called then.
    """
    line = f"ced: Ray or the system ended this process; what is written is in {printable(advice)}"
    script = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"
    try:
        watcher = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", script, line],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr.fileno(),
            start_new_session=True,  # Ctrl-C is for this process
        )
    except OSError:  # standard error is not a file, or there is no room for a process
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            watcher.communicate(b"left")
