"""Waiting for something that may take long, as long as there are signs of life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Patience:
    """Lasts ``seconds`` from its making, and anew from each line that is heard."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def listening(self, progress: Callable[[str], None]) -> Callable[[str], None]:
        """Passes lines on to ``progress``, and takes each for a sign of life."""

        def heard(line: str) -> None:
            self._until = time.monotonic() + self._seconds
            progress(line)

        return heard

    async def wait(self, future: asyncio.Future[_T]) -> _T:
        """The result of ``future``, which is cancelled when it is not awaited any more.

        Raises:
            TimeoutError: nothing was heard for so long.
        """
        try:
            while (left := self._until - time.monotonic()) > 0:
                await asyncio.wait([future], timeout=left)
                if future.done():
                    return future.result()
            raise TimeoutError
        finally:
            future.cancel()
