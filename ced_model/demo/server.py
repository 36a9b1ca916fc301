# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Starts the demo so that nothing leaves the machine: no analytics, no sharing, no fonts and scripts of others."""

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio

from .app import build_app
from .limits import Limits
from .models import Models

CSS_PATH = Path(__file__).parent / "style.css"
FONT = ("system-ui", "sans-serif")


def launch(models: Iterable[str] | Models = (), limits: Limits | None = None, **options: Any) -> None:
    """Serves the demo until Ctrl-C; the arguments are those of [`start`]."""
    start(models, limits, **options).block_thread()


def start(
    models: Iterable[str] | Models = (),
    limits: Limits | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
) -> gradio.Blocks:
    """
    Serves the demo in another thread.

    Args:
        models: folders and ids of Hub repositories that are offered beside the bundled and the published models; the
            first one is the default.
        limits: on size and duration of recordings; 100 MB and 10 minutes by default.
        host: address to listen at, by default only this machine's own.
        port: by default the first one that is free from 7860 on.

    Returns:
        The running app: `local_url` is where, `close()` ends it.

    Raises:
        OSError: if the port is taken, `host` is not an address of this machine, or the server does not answer there.
    """
    _check_address(host, port)
    limits = limits or Limits()
    app = build_app(models if isinstance(models, Models) else Models(models), limits)
    try:
        app.launch(
            server_name=host,
            server_port=port,
            max_file_size=limits.bytes,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            run_history=False,
            footer_links=["api"],
            theme=_make_theme(),
            css_paths=CSS_PATH,
        )
    except ValueError as error:  # Gradio asks its own server for an answer before it returns
        app.close(verbose=False)
        raise OSError(
            "the server does not answer at its own address: is the machine too busy, or a proxy set?"
        ) from error
    return app


def _check_address(host: str | None, port: int | None) -> None:
    """Raises an `OSError` at once where Gradio would try 100 ports, for 5 seconds each."""
    if host is None and port is None:
        return
    family, kind, _, _, address = socket.getaddrinfo(host or "127.0.0.1", port or 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)


def _make_theme() -> gradio.themes.Base:
    """Fonts that the browser has, and a button that is dark enough for its white text."""
    theme = gradio.themes.Default(primary_hue="indigo", font=FONT, font_mono=FONT)
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
