"""Answers that take their time: streams of server-sent events, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import TypeVar

import msgspec
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from stageline_engine.core.logs import REQUEST_ID
from stageline_engine.server import replies
from stageline_engine.server.context import ServerContext
from stageline_engine.server.door import ClientLeftError
from stageline_engine.server.errors import from_exception

log = logging.getLogger(__name__)

Value = TypeVar("Value")

DONE = b"data: [DONE]\n\n"
COMMENT = b": waiting\n\n"


def event(value: msgspec.Struct) -> bytes:
    """One server-sent event."""
    return b"data: " + replies.encode(value) + b"\n\n"


class EventStream(Response):
    """Sends events as they come.

    Nothing is sent before the first event (or the first comment, after ``keep_alive_seconds``), so that a refusal by
    the engine is still an HTTP error. Later errors become an event. A client that leaves closes ``events``.
    """

    def __init__(self, context: ServerContext, request_id: str, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._context = context
        self._request_id = request_id
        self._events = events
        self._started = False
        self._last_sent = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; returns when it has ended or the client has left."""
        work = asyncio.create_task(self._send_events(scope, receive, send))
        left = asyncio.create_task(_until_disconnected(receive))
        alive = asyncio.create_task(self._keep_alive(send))
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, left, alive):
                task.cancel()
            await asyncio.gather(work, left, alive, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _send_events(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events):
                async for data in self._events:
                    await self._send(send, data)
        except Exception as error:
            answer = from_exception(error, draining=self._context.is_draining)
            if answer.status == 500:
                log.exception("a request failed in its stream", extra={REQUEST_ID: self._request_id})
            if not self._started:
                await answer.response()(scope, receive, send)
                return
            await self._send(send, b"data: " + answer.body + b"\n\n")
        await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, data: bytes) -> None:
        await self._start(send)
        self._last_sent = time.monotonic()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _keep_alive(self, send: Send) -> None:
        interval = self._context.settings.keep_alive_seconds
        while True:
            await asyncio.sleep(self._last_sent + interval - time.monotonic())
            if time.monotonic() - self._last_sent >= interval:
                await self._send(send, COMMENT)


async def while_connected(request: Request, work: Coroutine[object, object, Value]) -> Value:
    """The result of ``work``, which is cancelled when the client leaves.

    Raises:
        ClientLeftError: it left.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.create_task(_until_disconnected(request.receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
