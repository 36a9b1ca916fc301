# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced demo`: the tagger as a page in the browser."""

import math
from importlib.util import find_spec

from .errors import FAILED, CliError
from .model import choose_model, quieten
from .terminal import put, say

INSTALL_DEMO = 'pip install "ced_model[demo]"'


def serve_demo(
    *,
    models: list[str],
    host: str | None = None,
    port: int | None = None,
    max_megabytes: float | None = None,
    max_minutes: float | None = None,
) -> None:
    """
    Serves the demo until Ctrl-C.

    Args:
        models: model folders and Hub ids that are offered beside the bundled and the published ones, and first.
        host: address to listen at, by default only this machine's own.
        port: by default the first free one from 7860 on.
        max_megabytes, max_minutes: size and duration of recordings, by default 100 MB and 10 minutes.

    Raises:
        CliError: for wrong usage, if Gradio is missing, if a model that was named cannot be loaded, or if the port is
            taken.
    """
    names = [choose_model(model) for model in models]
    limits = {"megabytes": max_megabytes, "minutes": max_minutes}
    for name, value in limits.items():
        if value is not None and not 0 < value < math.inf:
            raise CliError(f"--max-{name} {value:g}: expected a number above 0")
    for package in ("gradio", "matplotlib"):
        if find_spec(package) is None:
            raise CliError(f"the demo needs {package}: {INSTALL_DEMO}", FAILED)
    _serve(names, {name: value for name, value in limits.items() if value is not None}, host, port)


def _serve(names: list[str], limits: dict[str, float], host: str | None, port: int | None) -> None:
    """Loads the first model, unless it would have to be fetched without being asked for, and serves."""
    from ..demo import Limits, start
    from ..demo.limits import DemoError
    from ..demo.models import Models
    from ..demo.server import wait_until_stopped

    quieten()
    models = Models(names)
    default = models.names[0]
    try:
        if names or models.is_local(default):
            models.load(default)
        app = start(models, Limits(**limits), host=host, port=port)
    except DemoError as error:
        raise CliError(str(error), FAILED) from error
    except OSError as error:
        place = f"{host or 'this machine'}, port {port or '7860 to 7959'}"
        reason = "taken, or not an address of this machine" if error.errno else str(error)
        raise CliError(f"cannot listen at {place}: {reason}", FAILED) from error
    say(f"model: {default}")
    put(f"The demo is at {app.local_url} (Ctrl-C ends it)")
    wait_until_stopped(app)
