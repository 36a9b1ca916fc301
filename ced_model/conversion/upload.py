# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Uploads model folders to the Hub."""

import os
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.errors import HTTPError as HubConnectionError  # base class of the HTTP client's errors
from huggingface_hub.utils import validate_repo_id

from ..messages import one_line
from .checkpoint import ConversionError


def check_repo_id(repo_id: str) -> None:
    """Raises a [`ConversionError`] if `repo_id` is not a valid name of a Hub repository."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConversionError(f"{repo_id} is not a Hub repository name: {one_line(error)}") from error


def push_to_hub(folder: str | os.PathLike[str], repo_id: str, api: huggingface_hub.HfApi | None = None) -> str:
    """
    Uploads a model folder to the Hub, creating the repository if needed.

    Args:
        folder: A folder written by [`convert_checkpoint`].
        repo_id: The repository, `user/model`.
        api: The client to use, with its token; by default one with the token of `hf auth login` or `HF_TOKEN`.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ConversionError`: without a token, permission or network.
    """
    check_repo_id(repo_id)
    client = api or huggingface_hub.HfApi()
    try:
        repo = client.create_repo(repo_id, exist_ok=True)
        client.upload_folder(repo_id=repo.repo_id, folder_path=Path(folder), commit_message="Add CED model")
    except (OSError, HubConnectionError, ValueError) as error:
        raise ConversionError(
            f"{folder} is complete, but not uploaded to {repo_id} (run again with `overwrite=True`):"
            f" {_upload_hint(error)}"
        ) from error
    return str(repo)


def _upload_hint(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return "log in with `hf auth login` or set HF_TOKEN to a token with write access."
    if status == 403:
        return "the token has no write access to this repository."
    if isinstance(error, HfHubHTTPError):
        return f"the Hub returned {one_line(error)}"
    return f"the Hugging Face Hub could not be reached: check the network ({one_line(error)})"
