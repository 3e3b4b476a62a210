"""The API server's times → seconds since 1970."""

from __future__ import annotations

from datetime import datetime


def seconds(text: str | None) -> float | None:
    """RFC 3339 (``2026-01-02T03:04:05Z``, with or without fractions) → seconds; None stays None."""
    return None if text is None else datetime.fromisoformat(text).timestamp()
