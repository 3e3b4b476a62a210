"""Times in a status are texts in UTC with whole seconds; decisions count in seconds since 1970."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"


def to_text(seconds: float) -> str:
    """As RFC 3339."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime(_FORM)


def to_seconds(text: str) -> float:
    """Back again."""
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC).timestamp()


def seconds_or_none(text: str | None) -> float | None:
    """Back again, where there is one."""
    return None if text is None else to_seconds(text)


def text_or_none(seconds: float | None) -> str | None:
    """As RFC 3339, where there is one."""
    return None if seconds is None else to_text(seconds)
