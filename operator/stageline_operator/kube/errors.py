"""What the client or the connection raise → api.errors. The only place that knows HTTP status codes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

import aiohttp
from kubernetes.aio.client.exceptions import ApiException

from stageline_operator.api.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    RefusedError,
    UnavailableError,
)

MAX_RETRY_AFTER = 60.0
"""Seconds; a server that asks for more is asked again after so long."""


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Inside the block every failure of a request becomes an ApiError.

    Args:
        what: the request in words, for the message.

    Raises:
        ConflictError, GoneError, RefusedError, ForbiddenError, UnavailableError: see api.errors.
        ApiError: any other status.
    """
    try:
        yield
    except ApiException as error:
        raise of_status(what, int(error.status or 0), error.body or error.reason or "", error.headers or {}) from error
    except TimeoutError as error:
        raise UnavailableError(f"{what}: no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"{what}: {error or type(error).__name__}") from error
    except ValueError as error:  # an answer that is no JSON, or half of one
        raise UnavailableError(f"{what}: the answer is not JSON: {error}") from error


def of_status(what: str, status: int, body: str, headers: Mapping[str, str]) -> ApiError:
    """The error for an HTTP status that is not 2xx.

    Args:
        body: a Status object as JSON, or any text.
    """
    message, details = _read(body)
    text = f"{what}: {message or status}"
    if status == 409:
        return ConflictError(text, status)
    if status in (404, 410):
        return GoneError(text, status)
    if status == 429 or status >= 500:
        return UnavailableError(text, status, _retry_after(headers, details))
    if status == 403:
        return ForbiddenError(text, status)
    if status in (400, 405, 413, 415, 422):
        return RefusedError(text, status)
    if status == 401:  # a token that has just expired is read anew before the next call
        return UnavailableError(text, status)
    return ApiError(text, status)


def _read(body: str) -> tuple[str, Mapping[str, object]]:
    try:
        status = json.loads(body)
        return str(status["message"]), status.get("details") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.strip()[:500], {}


def _retry_after(headers: Mapping[str, str], details: Mapping[str, object]) -> float | None:
    wanted = headers.get("Retry-After") or details.get("retryAfterSeconds")
    with contextlib.suppress(TypeError, ValueError):
        return min(max(float(wanted), 0.0), MAX_RETRY_AFTER)  # type: ignore[arg-type]
    return None
