"""A line for each HTTP request that was answered, with the request's id, which uvicorn's own log does not know."""

from __future__ import annotations

import logging

from starlette.types import Scope

from stageline_engine.core.logs import REQUEST_ID

_log = logging.getLogger(__name__)
_PROBES = frozenset(("/health", "/ready", "/metrics"))
"""Asked for every few seconds, for as long as the server lives: told at debug level."""
_MAX_PATH = 200


def note(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    """``status`` went to the client so many seconds after the request's head had come."""
    level = logging.DEBUG if scope["path"] in _PROBES else logging.INFO
    if not _log.isEnabledFor(level):
        return
    # As it came, %-escapes included: whatever a client writes stays one line, and one word.
    path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:_MAX_PATH]
    fields = {
        REQUEST_ID: request_id,
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "path": path,
        "status": status,
        "seconds": round(seconds, 4),
    }
    _log.log(level, "%s %s %d in %.3f s", scope["method"], path, status, seconds, extra=fields)
