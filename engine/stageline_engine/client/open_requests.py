"""The requests of one client that its engine core has: where their outputs go, and who hears of their times."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from stageline_engine.core.errors import EngineFailedError, InvalidRequestError, OverloadedError
from stageline_engine.core.messages import ChoiceTimes, Rejected, SequenceOutput

TIMES_SECONDS = 10.0
"""So long after the end of a request the times of its choices are still passed on. Of some there are none: they were
never admitted."""

StreamItem = SequenceOutput | Exception


class OpenRequests:
    """For one event loop. The core knows a request by an id of ours: it may still be ending one that was left when the
    client's id is used again.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._core_ids: dict[str, str] = {}
        """By the client's id."""
        self._streams: dict[str, asyncio.Queue[StreamItem]] = {}
        self._hearers: dict[str, Callable[[ChoiceTimes], None]] = {}
        self._none = asyncio.Event()
        self._none.set()

    def open(
        self, request_id: str, on_times: Callable[[ChoiceTimes], None] | None
    ) -> tuple[str, asyncio.Queue[StreamItem]]:
        """The core's id of a new request, and where its outputs come.

        Raises:
            InvalidRequestError: a request of this id is open.
        """
        if request_id in self._core_ids:
            raise InvalidRequestError("request_id", request_id, "a request with this id is running: choose another")
        core_id = self._core_ids[request_id] = f"{next(self._numbers)}-{request_id}"
        queue = self._streams[core_id] = asyncio.Queue()
        if on_times is not None:
            self._hearers[core_id] = on_times
        self._none.clear()
        return core_id, queue

    def close(self, request_id: str) -> None:
        """Its outputs are of no interest any more; its times are, for a while."""
        core_id = self._core_ids.pop(request_id)
        del self._streams[core_id]
        if core_id in self._hearers:
            asyncio.get_running_loop().call_later(TIMES_SECONDS, self._hearers.pop, core_id, None)
        if not self._streams:
            self._none.set()

    def core_id(self, request_id: str) -> str | None:
        """None when no request of this id is open."""
        return self._core_ids.get(request_id)

    async def all_closed(self) -> None:
        """Return when no request is open."""
        await self._none.wait()

    def take(self, outputs: list[SequenceOutput]) -> None:
        """Pass outputs on; those of requests that were left go nowhere."""
        for output in outputs:
            self._put(output.request_id, output)

    def take_times(self, times: ChoiceTimes) -> None:
        """Pass a choice's times on."""
        if (hear := self._hearers.get(times.request_id)) is not None:
            hear(times)

    def reject(self, event: Rejected) -> None:
        """End a request that the core does not take."""
        if event.retry_after:
            self._put(event.request_id, OverloadedError(event.message, event.retry_after))
        else:
            self._put(event.request_id, InvalidRequestError(event.field, event.value, event.message))

    def fail(self, message: str) -> None:
        """End all: the engine is gone."""
        for queue in self._streams.values():
            queue.put_nowait(EngineFailedError(message))

    def _put(self, core_id: str, item: StreamItem) -> None:
        if (queue := self._streams.get(core_id)) is not None:
            queue.put_nowait(item)
