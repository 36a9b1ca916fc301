# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced serve`: the tagger over HTTP and WebSockets."""

from typing import Annotated

import typer

from ..messages import OptionError
from ..packages import require
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import choose_model, load_tagger
from .terminal import put

MAX_PORT = 65535
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client")


@one_line_errors
def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR_OR_ID",
            help="A model folder or the id of a Hub repository; by default ced-nano, bundled. May be given several"
            " times: requests choose one by name, by default the first.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Listen here; by default for this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0 for a free one.")] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", envvar="CED_API_KEY", help="Refuse requests without this key. Better as $CED_API_KEY."
        ),
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where a proxy publishes the server, such as /ced.")
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Processes, each with its own models.")] = 1,
    max_megabytes: Annotated[
        float | None, typer.Option(metavar="MB", help="Refuse larger requests; by default 100.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Refuse longer recordings; by default 30.")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(metavar="N", help="Refuse requests while this many wait; by default 64.")
    ] = None,
    max_streams: Annotated[
        int | None, typer.Option(metavar="N", help="Live streams at a time in a process; by default 16.")
    ] = None,
    body_timeout_s: Annotated[
        float | None,
        typer.Option("--body-timeout", metavar="SECONDS", help="End uploads that stop for this time; by default 30."),
    ] = None,
    decode_timeout_s: Annotated[
        float | None,
        typer.Option("--decode-timeout", metavar="SECONDS", help="Longest time to decode a file; by default 30."),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Longest time of a request; by default 300."),
    ] = None,
    stream_timeout_s: Annotated[
        float | None,
        typer.Option("--stream-timeout", metavar="SECONDS", help="End streams that stop for this time; by default 60."),
    ] = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
    device: options.Device = None,
    num_threads: options.Threads = None,
) -> None:
    """Serve tags over HTTP, and live streams over WebSockets.

    Events, timelines and embeddings as well: /docs and /openapi.json list all endpoints. POST
    /v1/audio/classification is compatible with LocalAI. On SIGTERM and Ctrl-C, running requests are finished. Example:

    ced serve --port 8080 & curl -F file=@clip.wav localhost:8080/v1/audio/classification
    """
    limits = options.given(max_megabytes=max_megabytes, max_minutes=max_minutes, max_waiting=max_waiting)
    limits |= options.given(max_streams=max_streams, body_timeout_s=body_timeout_s, timeout_s=timeout_s)
    limits |= options.given(decode_timeout_s=decode_timeout_s, stream_timeout_s=stream_timeout_s)
    require(PACKAGES, "serving")
    from ..serve.settings import Settings

    if not 0 <= port <= MAX_PORT:
        raise OptionError("port", port, f"a number from 0 to {MAX_PORT}")
    settings = Settings(**limits, **options.given(api_key=api_key, root_path=root_path))
    names = [choose_model(name) for name in model] if model else [choose_model(None)]
    computing = options.given(compute_type=compute_type, device=device, num_threads=num_threads) | {"engine": engine}
    from ..serve.server import open_port, serve, warm_up

    try:
        listening = open_port(host, port)
    except OSError as error:
        raise CliError(f"cannot listen at {host}, port {port}: {error.strerror or error}", FAILED) from error
    taggers = [load_tagger(name, **computing) for name in names]
    if workers == 1:
        warm_up(taggers)
    address = f"[{host}]" if ":" in host else host
    put(f"Serving at http://{address}:{listening.getsockname()[1]} (Ctrl-C ends it)")
    serve(listening, taggers, settings, workers=workers, models=names, **computing)
