# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The models that the demo offers: the bundled one, the published ones, and local folders."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ..bundled import DEFAULT_MODEL as BUNDLED
from ..model_card import PUBLISHED_FIGURES
from ..tagging import AudioTagger
from .limits import DemoError

PUBLISHED = {f"mispeech/{size}": size for size in PUBLISHED_FIGURES}
GOOD_FOR = {
    "ced-tiny": "5.5 M parameters: quick on any laptop",
    "ced-mini": "9.6 M parameters: nearly as quick, a little better",
    "ced-small": "22 M parameters: good where a few seconds do not matter",
    "ced-base": "86 M parameters: the best of the family, and the slowest",
}
MAX_LOADED = 2  # at a time, so that memory does not grow with what users try
MAX_LISTED_LABELS = 6


class Models:
    """
    Names of models and what they stand for.

    Args:
        local: folders and ids of Hub repositories that are offered, too, the first one as the default. Without any,
            the default is the bundled model.
    """

    def __init__(self, local: Iterable[str] = ()) -> None:
        local = list(dict.fromkeys(local))
        self._sources = {_unused_name(source, local): source for source in local}
        for name in (BUNDLED, *PUBLISHED):
            self._sources.setdefault(name, name)
        self._load = lru_cache(maxsize=MAX_LOADED)(AudioTagger.from_pretrained)

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
        if name not in self._sources:
            raise DemoError(f"There is no model {name!r} here. Please choose one of {', '.join(self.names)}.")
        try:
            return self._load(self._sources[name])
        except Exception as error:  # safetensors, json, torch and the Hub's client all have their own
            if self.is_local(name):
                reason = " ".join(str(error).split()).rstrip(".")
                raise DemoError(f"{name} could not be loaded: {reason}.") from error
            raise DemoError(
                f"{name} could not be fetched from the Hugging Face Hub. Please check its name and the connection, or"
                " choose another model."
            ) from error

    def describe(self, name: str) -> str:
        """One sentence on what a model is good for."""
        if name == BUNDLED:
            return (
                "ced-nano comes with the package and needs no network: very small and quick, good for a first look."
                " The published models hear more."
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
        listed = ", ".join(tagger.labels[:MAX_LISTED_LABELS])
        more = ", …" if len(tagger.labels) > MAX_LISTED_LABELS else "."
        return f"{name} is a model of your own, good for its {len(tagger.labels)} classes: {listed}{more}"


def _unused_name(source: str, others: list[str]) -> str:
    """What a folder is called: its last part, unless another one has the same. Users need not see where it lies."""
    if not Path(source).expanduser().is_dir():
        return source
    name = Path(source).expanduser().resolve().name
    same = [other for other in others if Path(other).expanduser().resolve().name == name]
    return name if len(same) == 1 and name not in (BUNDLED, *PUBLISHED) else f"{name} ({same.index(source) + 1})"
