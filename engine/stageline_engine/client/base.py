"""The seam between text work (API server, Python API) and an engine core in another process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import msgspec

from stageline_engine.core.messages import ChoiceTimes, EngineReady, EngineStats, SequenceOutput
from stageline_engine.core.request import SamplingParams


class RequestTag(msgspec.Struct, frozen=True):
    """What follows a request through the engine, and has no effect on its tokens."""

    name: str
    """What log lines call it; several requests may have the same."""
    on_times: Callable[[ChoiceTimes], None] | None = None
    """Called once for each choice, some time after its last output; None: nobody is interested."""


class EngineClient(Protocol):
    """One engine core, as seen from an asyncio program."""

    @property
    def ready(self) -> EngineReady:
        """Facts of the started engine."""

    @property
    def stats(self) -> EngineStats:
        """The newest state of the core, at most about half a second old."""

    @property
    def is_alive(self) -> bool:
        """Whether the core runs."""

    def not_ready_reason(self) -> str | None:
        """None when a token went through all stages within the last 5 s and no step is overdue, else why not."""

    def generate(
        self, request_id: str, prompt_token_ids: list[int], sampling: SamplingParams, tag: RequestTag | None = None
    ) -> AsyncGenerator[SequenceOutput, None]:
        """Outputs of all ``sampling.n`` choices as they come; ends when the last choice has finished.

        Leaving the iterator early (``aclose``, cancellation) aborts what still runs.

        Args:
            tag: what the engine's log lines call it, default ``request_id``; and who hears of its choices' times.

        Raises:
            InvalidRequestError: a token id or a value has a wrong type or is out of range, or the prompt does not fit
                the model's length.
            OverloadedError: the queue is full or the engine drains.
            EngineFailedError: the engine ended.
        """

    async def abort(self, request_id: str, choices: list[int] | None = None) -> None:
        """Free the choices (None: all) of a request; their streams end with finish reason ``abort``."""

    async def drain(self) -> None:
        """Refuse new requests; returns when the running and waiting ones have finished."""

    async def close(self) -> None:
        """End the engine core and its ranks; open requests end with EngineFailedError."""
