# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The published models, and access to models on the Hugging Face Hub."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .bundled import DEFAULT_MODEL, resolve_model
from .messages import one_line, printable


class PublishedFigures(NamedTuple):
    """Mean average precision in percent on the AudioSet evaluation set, from the paper (table 1)."""

    audioset: float  # trained on all of AudioSet, like the published checkpoints
    balanced: float  # trained on the balanced 20,000 clips only (AS-20K); no published checkpoint


PUBLISHED_FIGURES: dict[str, PublishedFigures] = {
    "ced-tiny": PublishedFigures(48.1, 36.5),
    "ced-mini": PublishedFigures(49.0, 38.5),
    "ced-small": PublishedFigures(49.6, 41.6),
    "ced-base": PublishedFigures(50.0, 44.0),
}
PUBLISHED_MODELS = tuple(f"mispeech/{size}" for size in PUBLISHED_FIGURES)
MODEL_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")

HUB_OPTIONS = frozenset(("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download"))


def assets_folder() -> Path:
    """Folder for files that this package makes or downloads, in the Hub's assets cache."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "huggingface"
    )
    return Path(os.environ.get("HF_ASSETS_CACHE") or os.path.join(home, "assets"), "ced_model")


class ModelNotFoundError(OSError):
    """Raised if a model is not found. The message is one line with the reason and the remedy."""


def locate_model(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    patterns: Sequence[str] = MODEL_FILES,
) -> Path:
    """
    The folder of a model: a local folder, the bundled model, or the snapshot of a Hub repository.

    Files of a repository that match `patterns` are downloaded. If the Hub cannot be reached, the cached files are used.

    Raises:
        `ModelNotFoundError`: if there is no such folder or repository, or it cannot be reached.
    """
    name = os.fspath(model) if not isinstance(model, str) else resolve_model(model)
    path = Path(name).expanduser()
    if path.is_dir():
        return path / subfolder
    shown = printable(os.fspath(model))
    # A Hub id is `name` or `owner/name`; anything else that looks like a path is one.
    if isinstance(model, Path) or name.startswith((".", "~", os.sep)) or "\\" in name or name.count("/") > 1:
        raise ModelNotFoundError(f"There is no folder {shown!r}.")
    import huggingface_hub
    from huggingface_hub import errors

    allowed = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
    elsewhere = f"{_suggestion(name)}, or give a local folder"
    try:
        snapshot = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            allow_patterns=allowed,
        )
        return Path(snapshot) / subfolder
    except errors.HFValidationError as error:
        raise ModelNotFoundError(f"There is no folder {shown!r}, and it is not a Hub id such as user/model.") from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFoundError(f"{shown} has no revision {printable(revision)!r} on the Hugging Face Hub.") from error
    except errors.RepositoryNotFoundError as error:
        reason = "needs permission" if isinstance(error, errors.GatedRepoError) else "does not exist, or is private"
        raise ModelNotFoundError(
            f"{shown} is not a local folder, and on the Hugging Face Hub it {reason}: check the name{elsewhere}, or log"
            " in with `hf auth login`."
        ) from error
    except (OSError, errors.HTTPError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # such as a full disk
            raise
        if local_files_only or huggingface_hub.constants.is_offline_mode():
            reason = "the Hugging Face Hub is not used (offline mode)"
        else:
            reason = "the Hugging Face Hub cannot be reached"
        detail = one_line(error.__cause__ or error)
        raise ModelNotFoundError(
            f"{shown} is neither a local folder nor in the cache, and {reason}: check the name{elsewhere}. ({detail})"
        ) from error


def check_dataset_reachable(id: str, revision: str | None = None) -> None:
    """
    Requests a data set from the Hub once; 🤗 datasets would retry for half a minute.

    Raises:
        OSError, httpx.HTTPError: if the Hub cannot be reached, but not if there is no such data set.
    """
    from huggingface_hub import HfApi, constants, errors

    try:
        HfApi().dataset_info(id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        pass


def _suggestion(name: str) -> str:
    """What may have been meant by a name that is close to a known one, or to a part of it (`ced-tiny`, `tiny`)."""
    known = [*PUBLISHED_MODELS, DEFAULT_MODEL]
    aliases = {alias: id for id in known for alias in (id.rpartition("-")[2], id.rpartition("/")[2], id)}
    close = difflib.get_close_matches(name.lower(), aliases, n=1, cutoff=0.8)
    return f" (did you mean {aliases[close[0]]}?)" if close and aliases[close[0]] != name else ""
