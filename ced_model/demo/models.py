# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The models that the demo offers: the bundled one, the published ones, and local folders."""

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
    "ced-tiny": "5.5 M parameters: quick on any laptop",
    "ced-mini": "9.6 M parameters: nearly as quick, a little better",
    "ced-small": "22 M parameters: good where a few seconds do not matter",
    "ced-base": "86 M parameters: the best of the family, and the slowest",
}
MAX_LOADED = 2  # at a time, so that memory does not grow with what users try
RETRY_S = 60  # after which a model that could not be fetched is tried again
MAX_LISTED_LABELS = 6


class Models:
    """
    The offered models by name.

    Args:
        local: folders and ids of Hub repositories that are offered, too, the first one as the default. Without any,
            the default is the bundled model.
    """

    def __init__(self, local: Iterable[str] = ()) -> None:
        local = list(dict.fromkeys(local))
        self._sources = {_unused_name(source, local): source for source in local}
        for name in (BUNDLED, *PUBLISHED):
            self._sources.setdefault(name, name)
        self._lock = Lock()
        self._taggers: dict[str, Future[AudioTagger]] = {}  # loaded or being loaded, the one used last at the end
        self._failures: dict[str, tuple[float, DemoError]] = {}  # of the Hub: until when they are not tried again

    @property
    def names(self) -> list[str]:
        """What users choose from; the first one is the default."""
        return list(self._sources)

    def is_local(self, name: str) -> bool:
        """Whether `name` needs no network."""
        return name == BUNDLED or Path(self._sources[name]).expanduser().is_dir()

    def load(self, name: str) -> AudioTagger:
        """
        The tagger of a model; those used last stay loaded.

        Raises:
            DemoError: if there is no such model, or it cannot be loaded.
        """
        return self.begin(name).result()

    def begin(self, name: str) -> Future[AudioTagger]:
        """
        Begins to load a model, unless it is loaded, being loaded, or could not be fetched a moment ago.

        Returns:
            Its tagger once it is loaded, or a `DemoError`.
        """
        with self._lock:
            source = self._sources.get(name) if isinstance(name, str) else None
            failed_until, failure = self._failures.get(source or "", (0.0, None))
            if source is None:
                failure = DemoError(f"There is no model {name!r}. Please choose one of {', '.join(self.names)}.")
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
        future.set_running_or_notify_cancel()  # so that a request that stops waiting does not cancel it for others
        # A daemon, so that a download does not keep the demo from ending.
        Thread(target=self._load, args=(name, source, future), daemon=True).start()
        return future

    def _load(self, name: str, source: str, future: Future[AudioTagger]) -> None:
        try:
            tagger = AudioTagger(source)
        except BaseException as error:  # safetensors, json, torch and the Hub's client all have their own
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
        """One sentence on what a model is good for."""
        if name == BUNDLED:
            return (
                "ced-nano comes with the package and needs no network: very small and quick, good for a first look."
                " The published models are more accurate."
            )
        size = PUBLISHED.get(self._sources[name])
        if size is not None:
            return (
                f"{name}, {GOOD_FOR[size]} ({PUBLISHED_FIGURES[size].audioset} mAP on AudioSet, 527 classes of everyday"
                " sounds). It is fetched from the Hugging Face Hub the first time."
            )
        if not self.is_local(name):
            return f"{name} is fetched from the Hugging Face Hub the first time."
        return self._describe_local(name)

    def _describe_local(self, name: str) -> str:
        tagger = self.load(name)
        listed = ", ".join(map(printable, tagger.labels[:MAX_LISTED_LABELS]))
        more = ", …" if len(tagger.labels) > MAX_LISTED_LABELS else "."
        return f"{name} is a model of your own, good for its {len(tagger.labels)} classes: {listed}{more}"


def _unused_name(source: str, others: list[str]) -> str:
    """What a folder is called: its last part, unless another one has the same. Users need not see where it lies."""
    if not Path(source).expanduser().is_dir():
        return source
    name = Path(source).expanduser().resolve().name
    same = [other for other in others if Path(other).expanduser().resolve().name == name]
    return name if len(same) == 1 and name not in (BUNDLED, *PUBLISHED) else f"{name} ({same.index(source) + 1})"
