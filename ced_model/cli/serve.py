# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""`ced serve`: tagging over HTTP and WebSockets."""

import errno
from typing import Annotated

from ..messages import OptionError
from ..packages import require
from . import options
from .endings import one_line_errors
from .errors import FAILED, CliError
from .model import choose_model, load_tagger
from .options import COMPUTING, LIMITS, SERVER, option
from .terminal import put

MAX_PORT = 65535
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "websockets", "prometheus_client")


@one_line_errors
def serve(
    model: Annotated[
        list[str] | None,
        option(
            COMPUTING,
            "--model",
            "-m",
            metavar="DIR_OR_ID",
            help="Model folder or Hub id; by default ced-nano. Can be repeated: requests choose a model by name, by"
            " default the first.",
        ),
    ] = None,
    host: Annotated[
        str, option(SERVER, metavar="ADDRESS", help="Address to listen at; by default 127.0.0.1, this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, option(SERVER, metavar="N", help="Port; by default 8080, 0 for any free one.")] = 8080,
    api_key: Annotated[
        str | None,
        option(
            SERVER,
            metavar="KEY",
            envvar="CED_API_KEY",
            help="Refuse requests without this key. Prefer the variable, which other users cannot see.",
        ),
    ] = None,
    root_path: Annotated[
        str | None, option(SERVER, metavar="PATH", help="Path under which a proxy publishes the server, such as /ced.")
    ] = None,
    workers: Annotated[
        int, option(SERVER, metavar="N", min=1, help="Server processes, each with its own models; by default 1.")
    ] = 1,
    max_megabytes: Annotated[
        float | None, option(LIMITS, metavar="MB", help="Refuse larger requests; by default 100.")
    ] = None,
    max_minutes: Annotated[
        float | None, option(LIMITS, metavar="MINUTES", help="Refuse longer recordings; by default 30.")
    ] = None,
    max_waiting: Annotated[
        int | None, option(LIMITS, metavar="N", help="Refuse requests while this many are waiting; by default 64.")
    ] = None,
    max_streams: Annotated[
        int | None, option(LIMITS, metavar="N", help="Maximum live streams per process; by default 16.")
    ] = None,
    body_timeout_s: Annotated[
        float | None,
        option(LIMITS, "--body-timeout", metavar="SECONDS", help="End uploads that stall this long; by default 30."),
    ] = None,
    decode_timeout_s: Annotated[
        float | None,
        option(LIMITS, "--decode-timeout", metavar="SECONDS", help="Maximum time to decode a file; by default 30."),
    ] = None,
    timeout_s: Annotated[
        float | None,
        option(LIMITS, "--timeout", metavar="SECONDS", help="Maximum time of a request; by default 300."),
    ] = None,
    stream_timeout_s: Annotated[
        float | None,
        option(LIMITS, "--stream-timeout", metavar="SECONDS", help="End streams that stall this long; by default 60."),
    ] = None,
    engine: options.Engine = "auto",
    compute_type: options.ComputeType = None,
    device: options.Device = None,
    num_threads: options.Threads = None,
) -> None:
    """Run a server that tags audio over HTTP and WebSockets.

    The endpoints return tags, events, timelines and embeddings, for files and live streams. They are described at /docs
    of the server. POST /v1/audio/classification is compatible with LocalAI. On SIGTERM and Ctrl-C, the server finishes
    running requests. A request:

    curl -F file=@clip.wav localhost:8080/v1/audio/classification
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
        hint = "; choose another --port" if error.errno == errno.EADDRINUSE else ""
        raise CliError(f"cannot listen at {host}, port {port}: {error.strerror or error}{hint}", FAILED) from error
    taggers = [load_tagger(name, **computing) for name in names]
    if workers == 1:
        warm_up(taggers)
    address = f"[{host}]" if ":" in host else host
    put(f"Serving at http://{address}:{listening.getsockname()[1]} (Ctrl-C ends it)")
    serve(listening, taggers, settings, workers=workers, models=names, **computing)
