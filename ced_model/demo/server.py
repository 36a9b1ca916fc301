# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""Starts the demo without connections to other servers: no analytics, sharing, external fonts or scripts."""

import signal
import socket
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio
from starlette.middleware import Middleware

from .app import KEPT_S, build_app
from .guard import Guard
from .limits import Limits
from .models import Models
from .uploads import Uploads

CSS_PATH = Path(__file__).parent / "style.css"
FONT = ("system-ui", "sans-serif")
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP

_uploads: Uploads | None = None  # for all servers in this process
_running: set[gradio.Blocks] = set()


def launch(models: Iterable[str] | Models = (), limits: Limits | None = None, **options: Any) -> None:
    """Serves the demo until Ctrl-C or SIGTERM; the arguments are those of [`start`]."""
    wait_until_stopped(start(models, limits, **options))


def wait_until_stopped(app: gradio.Blocks) -> None:
    """Waits for a stop signal, and closes the app, which deletes all uploads."""
    stopped = threading.Event()
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for name in STOP_SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                    before[number] = signal.signal(number, lambda *_: stopped.set())
        stopped.wait()
    finally:
        app.close(verbose=False)
        for number, handler in before.items():
            signal.signal(number, handler)


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
        models: Model folders and Hub ids to offer besides the bundled and published models. The first one is the
            default.
        limits: Limits on size and duration of recordings, by default 100 MB and 10 minutes.
        host: Address to listen at, by default 127.0.0.1.
        port: Port, by default the first free one from 7860.

    Returns:
        The running app: `local_url` is its address, and `close()` ends it.

    Raises:
        OSError: if the port is in use, `host` is not an address of this machine, or the server does not respond.
    """
    _check_address(host, port)
    limits = limits or Limits()
    folder = _open_uploads()
    app = None
    try:
        app = build_app(models if isinstance(models, Models) else Models(models), limits)
        _running.add(app)
        _close_uploads_with(app)
        app.launch(
            app_kwargs={"middleware": [Middleware(Guard, folder=str(folder))]},
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
    except BaseException as error:
        if app is not None:
            app.close(verbose=False)
        _close_uploads(app)
        if not isinstance(error, ValueError):
            raise
        raise OSError(  # Gradio sends a request to its own server before it returns
            "the server does not respond at its own address: check proxy settings, or try again if the machine is busy"
        ) from error
    return app


def _open_uploads() -> Path:
    global _uploads
    _uploads = _uploads or Uploads(KEPT_S)
    return _uploads.path


def _close_uploads(app: gradio.Blocks | None) -> None:
    global _uploads
    _running.discard(app)
    if _uploads is not None and not _running:
        _uploads.close()
        _uploads = None


def _close_uploads_with(app: gradio.Blocks) -> None:
    close = app.close

    def close_all(verbose: bool = True) -> None:
        close(verbose)
        _close_uploads(app)

    app.close = close_all  # type: ignore[method-assign]


def _check_address(host: str | None, port: int | None) -> None:
    """Raises an `OSError` at once; Gradio would try 100 ports for 5 seconds each."""
    if host is None and port is None:
        return
    family, kind, _, _, address = socket.getaddrinfo(host or "127.0.0.1", port or 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)


def _make_theme() -> gradio.themes.Base:
    """A theme with system fonts, and enough contrast for the white text of the button."""
    theme = gradio.themes.Default(primary_hue="indigo", font=FONT, font_mono=FONT)
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
