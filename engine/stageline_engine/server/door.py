"""The outermost layer of the app: request ids, keys, draining, counting, and the last catch for exceptions.

Plain ASGI, so that streams pass without a task or a queue of its own for each request.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stageline_engine.core.logs import REQUEST_ID
from stageline_engine.server import access_log, limits
from stageline_engine.server.context import ServerContext
from stageline_engine.server.errors import ApiError, draining_error, engine_failed, from_exception, overloaded
from stageline_engine.server.tracing import RequestTrace

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
_TRACED = frozenset(("/v1/chat/completions", "/v1/completions"))
CLIENT_LEFT = 499
"""Status that is counted, never sent, when the client left before its answer."""
_USABLE_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{limits.MAX_REQUEST_ID_CHARACTERS}}}")


class ClientLeftError(Exception):
    """The client closed the connection before its answer was ready."""


class ApiKeys:
    """The keys that are let in. The time of a comparison tells nothing about them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def admits(self, authorization: str | None) -> bool:
        """Whether a header ``Authorization: Bearer KEY`` carries one of the keys; always, when there are none."""
        if not self._digests:
            return True
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip())
        found = False
        for digest in self._digests:
            # No early end: the number of comparisons must not depend on the key.
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == "bearer"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_engine_path(path: str) -> bool:
    """Whether a path needs a key and, when it asks the engine, room; probes, metrics and docs do not."""
    return path.startswith("/v1/") or path in ("/v1", "/tokenize", "/detokenize")


class Door:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, context: ServerContext, routes: frozenset[str]) -> None:
        self._app = app
        self._context = context
        self._keys = ApiKeys(context.settings.api_keys)
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(REQUEST_ID_HEADER, "")
        if not _USABLE_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        trace = self._trace(scope, headers, began)
        scope["state"]["trace"] = trace
        status = CLIENT_LEFT
        started = False

        async def send_marked(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        try:
            if is_engine_path(scope["path"]):
                with self._context.answering():
                    self._check(scope, headers)
                    await self._app(scope, receive, send_marked)
            else:
                await self._app(scope, receive, send_marked)
        except ClientLeftError:
            pass
        except Exception as error:
            answer = from_exception(error)
            if answer.status == 500:
                log.exception("%s %s failed", scope["method"], scope["path"], extra={REQUEST_ID: request_id})
            if started:
                # A half-sent answer cannot be mended; the server cuts the connection so that the client notices.
                raise
            await answer.response()(scope, receive, send_marked)
        finally:
            self._context.metrics.http_request(*self._labels(scope), status)
            if trace is not None:
                trace.describe(stageline__request_id=request_id)
                trace.end(status)
            access_log.note(scope, request_id, status, time.monotonic() - began)

    def _trace(self, scope: Scope, headers: Headers, began: float) -> RequestTrace | None:
        if self._context.tracer is None or scope["path"] not in _TRACED or scope["method"] != "POST":
            return None
        name = f"{scope['method']} {scope['path']}"
        trace = RequestTrace(self._context.tracer.begin(name, headers, began))
        return trace if trace.is_recorded else None

    def _check(self, scope: Scope, headers: Headers) -> None:
        if not self._keys.admits(headers.get("authorization")):
            raise ApiError(
                401,
                "the API key is missing or wrong: send it as 'Authorization: Bearer KEY'",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if scope["method"] != "POST":
            return
        if self._context.is_draining:
            raise draining_error()
        if not self._context.engine.is_alive:
            raise engine_failed()
        if self._context.num_open > limits.MAX_OPEN_REQUESTS:
            raise overloaded(
                f"more than {limits.MAX_OPEN_REQUESTS} requests are open", limits.RETRY_AFTER_OPEN_REQUESTS
            )

    def _labels(self, scope: Scope) -> tuple[str, str]:
        # What a client wrote must not become a label: each value is kept for good.
        path, method = scope["path"], scope["method"]
        if path.startswith("/v1/models/"):
            path = "/v1/models/{model}"
        known = method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
        return (method if known else "other"), (path if path in self._routes else "other")
