"""Reads a request's body, counting while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from stageline_engine.server import limits
from stageline_engine.server.context import ServerContext
from stageline_engine.server.door import ClientLeftError
from stageline_engine.server.errors import ApiError

Value = TypeVar("Value")


async def read_request(context: ServerContext, request: Request, parse: Callable[[bytes], Value]) -> Value:
    """The parsed body.

    Raises:
        ApiError: 408, 413, 415, or what ``parse`` raises.
        ClientLeftError: the client left meanwhile.
    """
    body = await _read(request, context.settings.max_body_bytes)
    return await context.offload(len(body), lambda: parse(body), long=limits.LONG_BODY)


async def _read(request: Request, most: int) -> bytes:
    # A web page can make a browser post text/plain or forms to any server, but not JSON without being allowed to.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"Content-Type is {kind!r}: send application/json", code="unsupported_media_type")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.BODY_TIMEOUT):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError as error:
        raise ApiError(
            408, f"the body did not arrive within {limits.BODY_TIMEOUT:g} s", headers={"Connection": "close"}
        ) from error
    except ClientDisconnect as error:
        raise ClientLeftError from error
    return bytes(body)


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than {most} bytes",
        code="body_too_large",
        # The rest of the body is not read, so the connection cannot be used again.
        headers={"Connection": "close"},
    )
