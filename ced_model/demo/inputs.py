# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradio fetches addresses that are sent in place of files; this would leave the machine and pass by the limits."""

from pathlib import Path
from typing import TypeVar

import gradio

NO_URLS = "Addresses are not fetched: please download the file and choose it here."

Input = TypeVar("Input", gradio.File, gradio.Audio)


def without_urls(component: Input) -> Input:
    """The component, which from now on refuses addresses. (Gradio writes a file beside the source of a subclass.)"""
    move = component.async_move_resource_to_block_cache

    async def move_unless_url(url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise gradio.Error(NO_URLS, print_exception=False)
        return await move(url_or_file_path)

    component.async_move_resource_to_block_cache = move_unless_url  # type: ignore[method-assign]
    return component
