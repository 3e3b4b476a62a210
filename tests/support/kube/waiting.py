"""Waiting for a state instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""A test that waits so long has found a hang."""


def wait_until(check: Callable[[], T], what: str, patience: float = PATIENCE_SECONDS, interval: float = 0.05) -> T:
    """Calls ``check`` until it returns something true, which is returned.

    Raises AssertionError with ``what`` and the last value after ``patience`` seconds. Exceptions of ``check`` pass
    through at once.
    """
    deadline = time.monotonic() + patience
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience:.0f} s for {what}; last seen: {value!r}")
        time.sleep(interval)
