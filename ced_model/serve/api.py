# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
"""The HTTP endpoints."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse

from ..audio import AudioError
from ..messages import one_line
from ..tagger import AudioTagger
from . import metrics
from . import parameters as kinds
from .answers import Models, classify, embed, find_events, score
from .body import BODIES_IN_MEMORY, Memory, Upload, add_value, read_body
from .gate import Gate
from .realtime import add_realtime
from .settings import ClientGone, Refusal, Settings
from .sound import Budget, load, unreadable, warnings
from .stream import Streams, add_stream
from .work import Work, share_engine

logger = logging.getLogger(__name__)

STATUSES = {
    400: "Invalid body, or no audio in it",
    401: "Missing or wrong API key",
    404: "Unknown model",
    408: "The body did not arrive in time",
    413: "The body or the recording is too large",
    415: "Unsupported content type",
    422: "Audio that cannot be read, or an invalid parameter",
    503: "Too many requests; retry after the seconds in Retry-After",
}
DESCRIPTION = (
    "Tags, events, timelines and embeddings of sounds. Parameters are in the query, in fields of a form, or in a JSON"
    " object. Live audio: WebSockets at /v1/audio/stream and /v1/realtime."
)


def create_app(taggers: Sequence[AudioTagger], settings: Settings | None = None) -> FastAPI:
    """
    Creates the ASGI application.

    Args:
        taggers: The models. The first one is the default.
        settings: Limits and API key.
    """
    settings = settings or Settings()
    app = FastAPI(title="ced_model", description=DESCRIPTION, redoc_url=None)
    for tagger in taggers:
        share_engine(tagger)
    models, memory = Models(taggers), Memory(BODIES_IN_MEMORY * settings.max_bytes)
    work = Work(settings, 2 * taggers[0].num_threads)  # per thread, one request decodes while another computes
    streams = Streams(models, settings)
    logging.getLogger("ced_model.audio").addHandler(warnings)

    def add(path: str, kind: type[Any], result: type[Any], answer: Callable[..., Any]) -> None:
        async def endpoint(request: Request) -> Response:
            query: dict[str, Any] = {}
            for name, value in request.query_params.multi_items():
                add_value(query, name, value)
            kinds.parse(kind, query)  # fails before the body is read
            upload = Upload(memory)
            try:
                await read_body(request, upload, settings)
                parameters = kinds.parse(kind, query | upload.fields)
                name, tagger = models.get(parameters.model)

                def compute(budget: Budget) -> Response:
                    try:
                        warnings.take()
                        waveform = load(upload, parameters, tagger.sampling_rate, budget)
                        warning = warnings.take()
                        result = answer(name, tagger, waveform, parameters, budget)
                    except ValueError as error:  # includes AudioError and OptionError
                        raise _refusal(error) from error
                    metrics.AUDIO.inc(len(waveform) / tagger.sampling_rate)
                    if warning:
                        result.headers["X-Warning"] = warning.encode("ascii", "backslashreplace").decode()
                    return result

                return await work.run(request.receive, compute)
            finally:
                upload.close()

        endpoint.__doc__ = answer.__doc__
        app.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            name=path.rpartition("/")[2],
            response_model=result,
            responses={status: {"model": kinds.Problems, "description": text} for status, text in STATUSES.items()},
            openapi_extra=_describe(kind),
        )

    add("/v1/audio/classification", kinds.Classification, kinds.Detections, classify)
    add("/v1/audio/events", kinds.Events, kinds.FoundEvents, find_events)
    add("/v1/audio/timeline", kinds.Timeline, kinds.Scores, score)
    add("/v1/embeddings", kinds.Embedding, kinds.Vectors, embed)
    add_stream(app, streams)
    add_realtime(app, streams)
    _add_others(app, models)
    known = frozenset(path for route in app.routes if (path := getattr(route, "path", "")))
    app.add_middleware(Gate, settings=settings, known=known)
    app.add_exception_handler(Refusal, lambda _, error: error.response())
    app.add_exception_handler(ClientGone, lambda *_: Response(status_code=499))
    app.add_exception_handler(HTTPException, _refuse_route)  # type: ignore[arg-type]
    app.add_exception_handler(
        Exception, lambda *_: Refusal(500, "internal error; see the log of the server").response()
    )
    return app


def _refusal(error: ValueError) -> Refusal:
    if isinstance(error, AudioError):
        return unreadable(error, np.zeros(0, np.float32))
    return Refusal(422, one_line(error).replace("`", ""))


def _refuse_route(request: Request, error: HTTPException) -> Response:
    message = {404: "unknown path; /docs lists the paths", 405: "this path has no such method"}.get(
        error.status_code, str(error.detail)
    )
    response = Refusal(error.status_code, message).response()
    response.headers.update(error.headers or {})
    return response


def _describe(kind: type[Any]) -> dict[str, Any]:
    """Parameters and request body for OpenAPI."""
    schema = kind.model_json_schema()
    properties = schema["properties"]
    binary = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": binary} | properties, "required": ["file"]}
    array = {"type": "array", "items": {"type": "number"}, "description": "Samples; requires sampling_rate."}
    audio = {"type": "string", "format": "byte", "description": "A file in base64."}
    extended = {"type": "object", "properties": {"array": array, "audio": audio} | properties}
    content = {
        "multipart/form-data": {"schema": form},
        "application/octet-stream": {"schema": binary},
        "audio/wav": {"schema": binary},
        "application/json": {"schema": extended},
    }
    query = [
        {"name": name, "in": "query", "required": False, "schema": each}
        for name, each in properties.items()
        if name != "thresholds"  # an object, only in JSON and forms
    ]
    return {"parameters": query, "requestBody": {"required": True, "content": content}}


def _add_others(app: FastAPI, models: Models) -> None:
    entries = [
        {
            "id": name,
            "object": "model",
            "owned_by": "ced_model",
            "classes": len(tagger.labels),
            "sampling_rate": tagger.sampling_rate,
            "embed_dim": tagger.embed_dim,
        }
        for name, tagger in models.by_name.items()
    ]

    @app.get("/v1/models", response_model=kinds.ModelList)
    async def list_models() -> Response:
        """Lists the models of this server. The first one is the default."""
        return JSONResponse({"object": "list", "data": entries})

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def check_health() -> dict[str, str]:
        """Responds while the process is running."""
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def check_readiness() -> dict[str, str]:
        """Responds when the models are loaded."""
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def read_metrics() -> Response:
        """Metrics for Prometheus, as text."""
        return Response(metrics.read(), media_type=metrics.CONTENT_TYPE_LATEST)
