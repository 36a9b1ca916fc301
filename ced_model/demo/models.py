# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The models of the demo: bundled, published, and given ones."""

import time
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread

from ..bundled import DEFAULT_MODEL as BUNDLED
from ..hub import PUBLISHED_FIGURES
from ..messages import one_line, printable
from ..tagger import AudioTagger
from .limits import DemoError

PUBLISHED = {f"mispeech/{size}": size for size in PUBLISHED_FIGURES}
GOOD_FOR = {
    "ced-tiny": "5.5 M parameters: fast on any laptop",
    "ced-mini": "9.6 M parameters: nearly as fast, slightly more accurate",
    "ced-small": "22 M parameters: more accurate, slower",
    "ced-base": "86 M parameters: the most accurate, and the slowest",
}
MAX_LOADED = 2  # limits memory
RETRY_S = 60  # after which a failed download is tried again
MAX_LISTED_LABELS = 6


class Models:
    """
    The models by name.

    Args:
        local: Further model folders and Hub ids. The first one is the default; without any, the bundled model is.
    """

    def __init__(self, local: Iterable[str] = ()) -> None:
        local = list(dict.fromkeys(local))
        self._sources = {_unused_name(source, local): source for source in local}
        for name in (BUNDLED, *PUBLISHED):
            self._sources.setdefault(name, name)
        self._lock = Lock()
        self._taggers: dict[str, Future[AudioTagger]] = {}  # loaded or loading, in order of use
        self._failures: dict[str, tuple[float, DemoError]] = {}  # failed downloads, and the time of the next attempt

    @property
    def names(self) -> list[str]:
        """Names of the models. The first one is the default."""
        return list(self._sources)

    def is_local(self, name: str) -> bool:
        """Whether a model needs no download."""
        return name == BUNDLED or Path(self._sources[name]).expanduser().is_dir()

    def load(self, name: str) -> AudioTagger:
        """
        The tagger of a model. The most recently used ones stay loaded.

        Raises:
            DemoError: if the model is unknown, or cannot be loaded.
        """
        return self.begin(name).result()

    def begin(self, name: str) -> Future[AudioTagger]:
        """
        Starts loading a model, unless it is loaded or loading, or its download has just failed.

        Returns:
            A future of its tagger, or of a `DemoError`.
        """
        with self._lock:
            source = self._sources.get(name) if isinstance(name, str) else None
            failed_until, failure = self._failures.get(source or "", (0.0, None))
            if source is None:
                failure = DemoError(f"Unknown model {name!r}. Please choose one of {', '.join(self.names)}.")
            elif source in self._taggers:
                self._taggers[source] = tagger = self._taggers.pop(source)
                return tagger
            elif time.monotonic() >= failed_until:
                failure = None
            future: Future[AudioTagger] = Future()
            if failure is not None:
                future.set_exception(failure)
                return future
            assert source is not None
            self._taggers[source] = future
        future.set_running_or_notify_cancel()  # so that one request cannot cancel it for others
        # A daemon thread, so that a download does not delay the end of the demo.
        Thread(target=self._load, args=(name, source, future), daemon=True).start()
        return future

    def _load(self, name: str, source: str, future: Future[AudioTagger]) -> None:
        try:
            tagger = AudioTagger(source)
        except BaseException as error:  # of safetensors, json, torch, the Hub's client, …
            failure = self._failure(name, source, error)
            with self._lock:
                del self._taggers[source]
                if not self.is_local(name):
                    self._failures[source] = (time.monotonic() + RETRY_S, failure)
            future.set_exception(failure)
            return
        future.set_result(tagger)
        with self._lock:
            loaded = [other for other, tagger in self._taggers.items() if tagger.done()]
            for other in loaded[:-MAX_LOADED]:
                del self._taggers[other]

    def _failure(self, name: str, source: str, error: BaseException) -> DemoError:
        if self.is_local(name):
            reason = one_line(error).rstrip(".").replace(source, name)
            failure = DemoError(f"{name} could not be loaded: {reason}.")
        else:
            failure = DemoError(
                f"{name} could not be downloaded from the Hugging Face Hub. Please check its name and the network, or"
                " choose another model."
            )
        failure.__cause__ = error
        return failure

    def describe(self, name: str) -> str:
        """A description of a model, for users."""
        if name == BUNDLED:
            return (
                "ced-nano is bundled and needs no network. It is very small and fast."
                " The published models are more accurate."
            )
        size = PUBLISHED.get(self._sources[name])
        if size is not None:
            return (
                f"{name}, {GOOD_FOR[size]} ({PUBLISHED_FIGURES[size].audioset} mAP on AudioSet, 527 classes of everyday"
                " sounds). It is downloaded from the Hugging Face Hub at first use."
            )
        if not self.is_local(name):
            return f"{name} is downloaded from the Hugging Face Hub at first use."
        return self._describe_local(name)

    def _describe_local(self, name: str) -> str:
        tagger = self.load(name)
        listed = ", ".join(map(printable, tagger.labels[:MAX_LISTED_LABELS]))
        more = ", …" if len(tagger.labels) > MAX_LISTED_LABELS else "."
        return f"{name} is your own model with {len(tagger.labels)} classes: {listed}{more}"


def _unused_name(source: str, others: list[str]) -> str:
    """A unique name for a folder: its last part, numbered if necessary. The path is hidden from users."""
    if not Path(source).expanduser().is_dir():
        return source
    name = Path(source).expanduser().resolve().name
    same = [other for other in others if Path(other).expanduser().resolve().name == name]
    return name if len(same) == 1 and name not in (BUNDLED, *PUBLISHED) else f"{name} ({same.index(source) + 1})"
