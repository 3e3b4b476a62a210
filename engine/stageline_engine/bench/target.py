"""What is measured: something that generates tokens for token ids. And how one workload is sent to it and timed."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from stageline_engine.bench.figures import RequestRecord
from stageline_engine.bench.workloads import SyntheticRequest
from stageline_engine.client.base import EngineClient
from stageline_engine.core.errors import EngineFailedError
from stageline_engine.core.request import SamplingParams


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """Tokens that arrived together."""

    num_tokens: int
    num_cached: int = 0
    """Prompt tokens that were prefix hits, as far as known by now."""


class Target(Protocol):
    """Generates tokens: greedily, and exactly as many as the request asks for."""

    def generate(self, request: SyntheticRequest) -> AsyncGenerator[Arrival, None]:
        """Arrivals as they come."""


class EngineTarget:
    """An engine of this program."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    async def generate(self, request: SyntheticRequest) -> AsyncGenerator[Arrival, None]:
        """See :class:`Target`."""
        sampling = SamplingParams(max_tokens=request.output_tokens, temperature=0.0, ignore_eos=True)
        async with aclosing(self._engine.generate(uuid.uuid4().hex, request.prompt_token_ids, sampling)) as outputs:
            async for output in outputs:
                yield Arrival(len(output.token_ids), output.num_cached_tokens)


async def send_all(target: Target, requests: Sequence[SyntheticRequest]) -> list[RequestRecord]:
    """Send all requests at once and note when their tokens come.

    Raises:
        StagelineError: the first error of a request; the others are aborted.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_send(target, request)) for request in requests]
    except ExceptionGroup as failed:
        # The requests share one target: their errors have one cause.
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _send(target: Target, request: SyntheticRequest) -> RequestRecord:
    record = RequestRecord(prompt_tokens=len(request.prompt_token_ids), sent=time.perf_counter(), arrivals=[])
    async with aclosing(target.generate(request)) as arrivals:
        async for arrival in arrivals:
            if arrival.num_tokens:
                record.arrivals.append((time.perf_counter(), arrival.num_tokens))
            record.cached_tokens = max(record.cached_tokens, arrival.num_cached)
    if record.output_tokens != request.output_tokens:
        raise EngineFailedError(
            f"a request ended after {record.output_tokens} of {request.output_tokens} tokens: "
            "the workloads need a server that heeds ignore_eos"
        )
    return record
