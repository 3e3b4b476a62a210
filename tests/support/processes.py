"""Whether a test leaves processes behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil


def descendants() -> set[int]:
    """Process ids below this process, zombies included."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


@contextmanager
def nothing_left() -> Iterator[None]:
    """Asserts that no process is there afterwards that was not there before."""
    before = descendants()
    yield
    assert descendants() <= before
