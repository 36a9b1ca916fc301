# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced demo`: tagging on a page in the browser."""

import math
from typing import Annotated

from ..packages import require
from . import options
from .completion import complete_model
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import choose_model, quieten
from .options import COMPUTING, LIMITS, SERVER, option
from .terminal import put, say


@one_line_errors
def demo(
    model: Annotated[
        list[str] | None,
        option(
            COMPUTING,
            "--model",
            "-m",
            metavar="DIR_OR_ID",
            help="Model folder or Hub id to offer as well; the first one is the default. Can be repeated.",
            autocompletion=complete_model,
        ),
    ] = None,
    host: Annotated[
        str | None,
        option(SERVER, metavar="ADDRESS", help="Address to listen at; by default 127.0.0.1, this machine only."),
    ] = None,
    port: Annotated[
        int | None, option(SERVER, metavar="N", min=1, max=65535, help="Port; by default the first free one from 7860.")
    ] = None,
    max_megabytes: Annotated[
        float | None, option(LIMITS, metavar="MB", help="Refuse larger files; by default 100.")
    ] = None,
    max_minutes: Annotated[
        float | None, option(LIMITS, metavar="MINUTES", help="Refuse longer recordings; by default 10.")
    ] = None,
) -> None:
    """Serve a web page that tags sounds.

    The page tags uploaded and recorded sounds and shows when they occur; programs can use its HTTP API. Audio is
    processed on this machine. Published models are downloaded when somebody chooses them. Ctrl-C ends the server.
    """
    names = [choose_model(name) for name in model or []]
    limits = options.given(megabytes=max_megabytes, minutes=max_minutes)
    for name, value in limits.items():
        if not 0 < value < math.inf:
            raise CliError(f"--max-{name} {value:g}: expected a number above 0")
    require(("gradio", "matplotlib"), "the demo")
    _serve(names, limits, host, port)


def _serve(names: list[str], limits: dict[str, float], host: str | None, port: int | None) -> None:
    """Serves the demo. The default model is loaded first, unless nobody chose it and it needs a download."""
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
        place = f"{host or '127.0.0.1'}, port {port or '7860 to 7959'}"
        reason = "the port is taken, or the address is not one of this machine" if error.errno else str(error)
        raise CliError(f"cannot listen at {place}: {reason}", FAILED) from error
    say(f"model: {default}")
    put(f"The demo is at {app.local_url} (Ctrl-C ends it)")
    wait_until_stopped(app)
