"""Answers and failures of the API server become errors that say what to do."""

from __future__ import annotations

import json

import aiohttp
import pytest
from kubernetes.aio.client.exceptions import ApiException

from stageline_operator.api.errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    RefusedError,
    UnavailableError,
)
from stageline_operator.kube.errors import MAX_RETRY_AFTER, of_status, translated


def status(message: str = "no", **details: object) -> str:
    return json.dumps({"kind": "Status", "message": message, "details": details})


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, RefusedError),
        (401, UnavailableError),
        (403, ForbiddenError),
        (404, GoneError),
        (409, ConflictError),
        (410, GoneError),
        (422, RefusedError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
        (418, ApiError),
    ],
)
def test_each_status_has_its_error(code: int, kind: type[ApiError]) -> None:
    error = of_status("create Pod a", code, status("quota exceeded"), {})
    assert type(error) is kind
    assert (str(error), error.status) == ("create Pod a: quota exceeded", code)


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"Retry-After": "7"}, status(), 7.0),
        ({}, status(retryAfterSeconds=3), 3.0),
        ({"Retry-After": "86400"}, status(), MAX_RETRY_AFTER),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, status(), None),
        ({}, "Too many requests", None),
    ],
)
def test_the_time_to_wait_is_the_servers(headers: dict[str, str], body: str, seconds: float | None) -> None:
    assert of_status("get", 429, body, headers).retry_after == seconds


@pytest.mark.parametrize(
    "failure",
    [
        TimeoutError(),
        ConnectionResetError("reset by peer"),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("half"),
        json.JSONDecodeError("half", "{", 1),
        ApiException(status=503, reason="shutting down"),
    ],
)
def test_no_answer_may_be_one_later(failure: Exception) -> None:
    with pytest.raises(UnavailableError, match="get Pod a"), translated("get Pod a"):
        raise failure
