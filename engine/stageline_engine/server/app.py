"""The API server's app: routes and the layers around them. The only package that imports FastAPI is this one."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from stageline_engine.client.base import EngineClient
from stageline_engine.core.errors import StagelineError
from stageline_engine.server import replies
from stageline_engine.server.chat import chat_completions
from stageline_engine.server.chat_request import ChatRequest
from stageline_engine.server.completion_request import CompletionRequest
from stageline_engine.server.completions import completions
from stageline_engine.server.context import ServerContext
from stageline_engine.server.door import Door
from stageline_engine.server.errors import ApiError, draining_error, from_exception
from stageline_engine.server.fields import StrictModel
from stageline_engine.server.openapi import body_description
from stageline_engine.server.settings import ServerSettings
from stageline_engine.server.tokenize import detokenize, tokenize
from stageline_engine.server.tokenize_request import DetokenizeRequest, TokenizeText
from stageline_engine.text.tokenizer import Tokenizer

Handler = Callable[[ServerContext, Request], Awaitable[Response]]

POSTS: tuple[tuple[str, Handler, type[StrictModel]], ...] = (
    ("/v1/chat/completions", chat_completions, ChatRequest),
    ("/v1/completions", completions, CompletionRequest),
    ("/tokenize", tokenize, TokenizeText),
    ("/detokenize", detokenize, DetokenizeRequest),
)


def create_app(engine: EngineClient, tokenizer: Tokenizer, settings: ServerSettings) -> FastAPI:
    """The app of one API server. ``engine`` must be started and stays the caller's to close."""
    context = ServerContext(engine, tokenizer, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        context.close()
        if context.tracer is not None:
            # In a thread: the engine is being closed meanwhile.
            await asyncio.to_thread(context.tracer.close)

    app = FastAPI(title="Stageline", version=importlib.metadata.version("stageline"), lifespan=lifespan)
    app.state.context = context
    _add_errors(app, context)
    for path, handler, body in POSTS:
        app.add_api_route(
            path,
            _bound(handler, context),
            methods=["POST"],
            name=path.rpartition("/")[2],
            openapi_extra=body_description(body),
        )
    _add_models(app, context)
    _add_probes(app, context)
    routes = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    app.add_middleware(Door, context=context, routes=routes | {"/v1/models/{model}"})
    return app


def begin_draining(app: FastAPI) -> None:
    """From now on, not ready and no new requests; the running ones go on. The caller drains the engine."""
    app.state.context.is_draining = True


def _bound(handler: Handler, context: ServerContext) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        return await handler(context, request)

    handle.__doc__ = handler.__doc__
    return handle


def _add_models(app: FastAPI, context: ServerContext) -> None:
    def card() -> replies.ModelCard:
        return replies.ModelCard(
            id=context.settings.served_model_name, created=context.created, max_model_len=context.max_model_len
        )

    @app.get("/v1/models")
    async def models() -> Response:
        """The served model."""
        return _json(replies.ModelList(data=[card()]))

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> Response:
        """The served model, if it has this name."""
        context.check_model(model)
        return _json(card())


def _add_probes(app: FastAPI, context: ServerContext) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Liveness: this process's own loop moves."""
        return _json({})

    @app.get("/ready")
    async def ready() -> Response:
        """Readiness: a token went through all stages within the last seconds, and new requests are taken."""
        if context.is_draining:
            raise draining_error()
        if (reason := context.engine.not_ready_reason()) is not None:
            raise ApiError(503, reason, kind="server_error", code="not_ready", headers={"Retry-After": "1"})
        return _json({"ready": True})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(context.metrics.scrape(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    @app.get("/version")
    async def version() -> Response:
        """This program's version."""
        return _json({"version": app.version})


def _add_errors(app: FastAPI, context: ServerContext) -> None:
    async def known(request: Request, error: Exception) -> Response:
        return from_exception(error, draining=context.is_draining).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ApiError(
            error.status_code,
            f"{error.detail}: {request.method} {request.url.path[:200]}",
            kind="not_found_error" if error.status_code == 404 else "invalid_request_error",
            code="not_found" if error.status_code == 404 else None,
            headers=error.headers,
        ).response()

    async def invalid(request: Request, error: Exception) -> Response:
        return ApiError(422, str(error), code="invalid_value").response()

    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(StagelineError, known)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _json(value: msgspec.Struct | dict[str, object]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
