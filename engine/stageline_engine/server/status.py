"""The status port: `GET /state`, `/ready` and `/live`, answered from the command's first moment to its last.

A thread with a loop of its own, since a model may be fetched for minutes before the API server has a loop, and since
whether that one moves is what `/live` tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import socket
import threading
from collections.abc import Iterator

import msgspec
import uvicorn
from fastapi import FastAPI, Response

from stageline_engine.server.head import Head

CUT_SECONDS = 1
"""What an answer that is under way gets at the end."""


def create_status_app(head: Head) -> FastAPI:
    """The app of the status port."""
    app = FastAPI(
        title="Stageline head", version=importlib.metadata.version("stageline"), docs_url=None, redoc_url=None
    )

    @app.get("/state")
    async def state() -> Response:
        """Epoch, stages, settings in force; whether it is ready or draining."""
        return _json(200, head.state())

    @app.get("/ready")
    async def ready() -> Response:
        """Readiness: a token went through all stages within the last seconds, and new requests are taken."""
        reason = head.not_ready_reason()
        return _json(200, {"ready": True}) if reason is None else _json(503, {"ready": False, "reason": reason})

    @app.get("/live")
    async def live() -> Response:
        """Liveness: the loop of the API server moves."""
        return _json(200 if head.is_live else 503, {"live": head.is_live})

    return app


@contextlib.contextmanager
def status_port(head: Head, listener: socket.socket) -> Iterator[None]:
    """Answer on ``listener`` while the body runs."""
    server = uvicorn.Server(
        uvicorn.Config(
            create_status_app(head),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CUT_SECONDS,
        )
    )
    # A daemon, so that nothing that goes wrong in it keeps the command from ending.
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(2 * CUT_SECONDS)


def _json(status: int, value: msgspec.Struct | dict[str, object]) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
