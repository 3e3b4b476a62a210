"""The seam between text work (API server, Python API) and an engine core in another process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from stageline_engine.core.messages import EngineReady, EngineStats, SequenceOutput
from stageline_engine.core.request import SamplingParams


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
        self, request_id: str, prompt_token_ids: list[int], sampling: SamplingParams, *, name: str | None = None
    ) -> AsyncGenerator[SequenceOutput, None]:
        """Outputs of all ``sampling.n`` choices as they come; ends when the last choice has finished.

        Leaving the iterator early (``aclose``, cancellation) aborts what still runs.

        Args:
            name: what the engine's log lines call the request; default: ``request_id``. Several may have the same.

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
