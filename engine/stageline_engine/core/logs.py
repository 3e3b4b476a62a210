"""How each process of the engine logs: a line per event on standard error, as text for people or JSON for machines.

A line says who wrote it: what :func:`set_up_logging` and :func:`set_fields` were given is on every line of the process,
and what a call gives as ``extra`` on its own. Keys of JSON: ``time`` (RFC 3339), ``level``, ``logger``, ``message``,
``exception`` (if there is one), and the fields.
"""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType

from pythonjsonlogger.msgspec import MsgspecFormatter

LEVELS = ("debug", "info", "warning", "error")
TEXT = "text"
JSON = "json"
FORMATS = (TEXT, JSON)

ROLE = "role"
STAGE = "stage"
RANK = "rank"
EPOCH = "epoch"
POD = "pod"
REQUEST_ID = "request_id"
_SHOWN_IN_TEXT = (STAGE, RANK, EPOCH, REQUEST_ID)
"""A person sees the rest from where the line stands."""

_fields: dict[str, str | int] = {}
_format = TEXT


def set_up_logging(level: str | int, log_format: str, role: str, **fields: str | int) -> None:
    """Log to standard error from ``level`` on (one of :data:`LEVELS`, or logging's number of it).

    Args:
        log_format: one of :data:`FORMATS`.
        role: what this process is.
        fields: more that every line of this process says.
    """
    global _format
    _format = log_format
    _fields.clear()
    set_fields(role=role, **fields)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_fields)
    handler.setFormatter(_json() if log_format == JSON else TextFormatter())
    logging.basicConfig(level=level.upper() if isinstance(level, str) else level, handlers=[handler], force=True)
    logging.captureWarnings(log_format == JSON)
    if log_format == JSON:
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


def set_fields(**fields: str | int) -> None:
    """From now on every line of this process says this too."""
    _fields.update(fields)


def current_format() -> str:
    """How this process writes; one of :data:`FORMATS`."""
    return _format


def is_json() -> bool:
    """Whether this process writes JSON, so that nothing else may stand on standard error."""
    return _format == JSON


class TextFormatter(logging.Formatter):
    """``2026-01-31 09:30:00,123 INFO logger: message (stage=0 request_id=…)``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without an exception."""
        shown = [f"{name}={value}" for name in _SHOWN_IN_TEXT if (value := getattr(record, name, None)) is not None]
        text = super().formatMessage(record)
        return f"{text} ({' '.join(shown)})" if shown else text


def _json() -> logging.Formatter:
    return MsgspecFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"},
        timestamp="time",
        # Of no use to a reader, but set on every record by newer versions of Python.
        reserved_attrs=[*_STANDARD],
    )


_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def is_field(name: str) -> bool:
    """Whether a line may have a field of this name."""
    return name not in _STANDARD


def _add_fields(record: logging.LogRecord) -> bool:
    for name, value in _fields.items():
        if not hasattr(record, name):
            setattr(record, name, value)
    return True


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger(__name__).critical("%s: %s", kind.__name__, error, exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
