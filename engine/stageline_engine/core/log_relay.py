"""Lines that a child process wrote as JSON, made records of our own log again: one process formats for its children.

Level, logger, time and fields stay those of the child.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

import msgspec

from stageline_engine.core.logs import is_field

_LEVELS = logging.getLevelNamesMapping()


class _Line(msgspec.Struct):
    time: datetime
    level: str
    logger: str
    message: str
    exception: str | None = None


_decoder = msgspec.json.Decoder(dict[str, Any])


def record_of(line: bytes) -> logging.LogRecord | None:
    """The record that a process with ``--log-format json`` wrote as ``line``; None: it is something else."""
    if not line.startswith(b"{"):
        return None
    try:
        values = _decoder.decode(line)
        head = msgspec.convert(values, _Line)
    except msgspec.MsgspecError:
        return None
    fields = {name: value for name, value in values.items() if is_field(name) and name not in _Line.__struct_fields__}
    return logging.makeLogRecord(
        {
            **fields,
            "name": head.logger,
            "levelname": head.level,
            "levelno": _LEVELS.get(head.level, logging.INFO),
            "msg": head.message,
            "created": head.time.timestamp(),
            "msecs": head.time.microsecond / 1000,
            "exc_text": head.exception,
        }
    )


def write(record: logging.LogRecord) -> None:
    """Hand a record to the logger of its name, if that takes its level."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def as_text(record: logging.LogRecord) -> str:
    """For a person: as short as it can be, with the exception below."""
    text = f"{record.levelname} {record.name}: {record.msg}"
    return f"{text}\n{record.exc_text}" if record.exc_text else text
