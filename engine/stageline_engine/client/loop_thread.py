"""An asyncio loop in a thread of its own, for synchronous callers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

HEAR_SECONDS = 0.2
"""How long an interrupt may go unheard.

Python's own wait for a lock does not end when the signal came just before it, while the thread gave the interpreter's
lock to another one. On a busy machine one of the first 40 tries was heard only when the work had ended.
"""


class LoopThread:
    """Runs coroutines in its thread and returns what they return to the caller's."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not been stopped."""
        return self._thread.is_alive()

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run ``work`` to its end and return its result.

        Raises:
            KeyboardInterrupt: an interrupt reached the caller, not the loop. ``work`` was cancelled and has ended, by
                itself perhaps; only a second interrupt does not wait for its end.
            Exception: whatever ``work`` raised.
        """
        ended: concurrent.futures.Future[T] = concurrent.futures.Future()
        running: list[asyncio.Task[T]] = []

        def begin() -> None:
            running.append(self._loop.create_task(work))
            running[0].add_done_callback(lambda task: _hand_over(task, ended))

        self._loop.call_soon_threadsafe(begin)
        try:
            _wait(ended)
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: running[0].cancel())
            _wait(ended)
            raise
        return ended.result()

    def stop(self) -> None:
        """End the loop and its thread when all that was cancelled has ended. What still runs never lets it."""
        self.run(_others_ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _wait(future: concurrent.futures.Future[T]) -> None:
    while not future.done():
        concurrent.futures.wait([future], timeout=HEAR_SECONDS)


def _hand_over(task: asyncio.Task[T], ended: concurrent.futures.Future[T]) -> None:
    if task.cancelled():
        ended.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        ended.set_exception(error)
    else:
        ended.set_result(task.result())


async def _others_ended() -> None:
    """Return when what was cancelled has ended.

    What that waits for must not be cancelled too: asyncio connects the pipes of a new process in a task of its own,
    without which nobody hears of the process's end (``asyncio.base_subprocess``, Python 3.11).
    """
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.gather(*others, return_exceptions=True)
