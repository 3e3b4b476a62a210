"""Every error that a client can see: one class, one shape, and the way from the engine's errors to it."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response

from stageline_engine.core.errors import (
    EngineFailedError,
    InvalidInputError,
    InvalidRequestError,
    OverloadedError,
)
from stageline_engine.server import limits, replies


class ApiError(Exception):
    """An answer with a status of 400 or more, raised anywhere in a handler.

    Args:
        status: HTTP status.
        message: for a person.
        kind: ``type`` in the body.
        param: the request's field that is wrong.
        code: a word for programs.
        headers: more response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.detail = replies.ErrorDetail(message=message, type=kind, param=param, code=code)
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The JSON text."""
        return replies.encode(replies.ErrorReply(self.detail))

    def response(self) -> Response:
        """The whole answer."""
        return Response(self.body, self.status, self.headers, media_type="application/json")


def from_exception(error: Exception, *, draining: bool = False) -> ApiError:
    """The answer to an exception of a handler; the unexpected becomes a 500 that tells nothing of the inside.

    Args:
        error: what was raised.
        draining: the server takes no new requests: what the engine refuses or ends then is for that reason.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, InvalidRequestError | InvalidInputError):
        return ApiError(400, str(error), param=error.field, code="invalid_value")
    if isinstance(error, OverloadedError):
        return draining_error() if draining else overloaded(str(error), error.retry_after)
    if isinstance(error, EngineFailedError):
        # The cause is in the log; a client cannot mend it and need not see paths and log lines.
        return draining_error() if draining else engine_failed()
    return ApiError(
        500, "the server made a mistake; its log has the details", kind="server_error", code="internal_error"
    )


def overloaded(message: str, retry_after: int) -> ApiError:
    """429."""
    return ApiError(
        429, message, kind="rate_limit_error", code="overloaded", headers={"Retry-After": str(max(1, retry_after))}
    )


def draining_error() -> ApiError:
    """503 of a server that finishes what it has and takes nothing new."""
    return ApiError(
        503,
        "the server is shutting down and takes no new requests",
        kind="server_error",
        code="draining",
        headers={"Retry-After": str(limits.RETRY_AFTER_DRAINING), "Connection": "close"},
    )


def engine_failed() -> ApiError:
    """503 of a server whose engine has ended."""
    return ApiError(
        503,
        "the engine has failed and cannot answer",
        kind="server_error",
        code="engine_failed",
        headers={"Retry-After": str(limits.RETRY_AFTER_FAILED)},
    )
