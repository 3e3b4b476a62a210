"""An EngineClient that says what a test tells it to: for exact token streams and for faults of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from stageline_engine.client.base import RequestTag
from stageline_engine.core.errors import EngineFailedError
from stageline_engine.core.messages import EngineReady, EngineStats, SequenceOutput, StageStats, TokenLogprobs
from stageline_engine.core.request import SamplingParams
from stageline_engine.text.tokenizer import Tokenizer

ANSWER = "The capital of France is Paris 😀"

READY = EngineReady(
    epoch=1,
    max_model_len=256,
    num_blocks=64,
    block_size=16,
    slots=2,
    layer_split=(1, 1),
    tp=(1, 1),
    dtype="float32",
    kv_memory=2**20,
    rank_pids=[[], []],
)
STATS = EngineStats(
    epoch=3,
    num_running=2,
    num_waiting=5,
    num_blocks=64,
    num_free_blocks=48,
    prefix_queries=100,
    prefix_hits=40,
    preemptions=7,
    steps=1234,
    slots=2,
    slots_in_flight=1,
    imbalance=0.25,
    seconds_since_token=0.1,
    oldest_step_seconds=0.0,
    oldest_step_limit=5.0,
    stages=[
        StageStats(
            steps=10,
            busy=1.5,
            wait_schedule=0.1,
            wait_feedback=0.2,
            wait_upstream=0.0,
            wait_downstream=0.4,
            communicating=0.3,
            idle=1.5,
            boundary_bytes=4096,
            resident_bytes=10**6,
            load=0.75,
        ),
        StageStats(steps=10, busy=2.5, wait_upstream=0.0, idle=1.5, resident_bytes=2 * 10**6, load=1.25),
    ],
    seconds=4.0,
    rows=5000,
    efficiency=0.8,
)

Script = Sequence[SequenceOutput | Exception | asyncio.Event]


def logprobs(logprob: float = -0.5, rank: int = 1, top: Sequence[tuple[int, float]] = ()) -> TokenLogprobs:
    return TokenLogprobs(logprob, rank, [token for token, _ in top], [value for _, value in top])


class ScriptedEngine:
    """Plays ``script(prompt, sampling)`` for each request: outputs are given, exceptions raised, events waited for."""

    def __init__(self, script: Callable[[list[int], SamplingParams], Script]) -> None:
        self.script = script
        self.ready = READY
        self.stats = STATS
        self.is_alive = True
        self.reason: str | None = None
        self.requests: list[tuple[str, list[int], SamplingParams]] = []
        self.aborted: list[tuple[str, list[int] | None]] = []
        self.left = asyncio.Event()
        """Set when a stream was left before its end."""
        self.closed = asyncio.Event()

    def not_ready_reason(self) -> str | None:
        return self.reason

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        sampling: SamplingParams,
        tag: RequestTag | None = None,
    ) -> AsyncGenerator[SequenceOutput, None]:
        self.requests.append((request_id, prompt_token_ids, sampling))
        finished: set[int] = set()
        try:
            for item in self.script(prompt_token_ids, sampling):
                if isinstance(item, Exception):
                    finished = set(range(sampling.n))
                    raise item
                if isinstance(item, asyncio.Event):
                    await self._wait(item)
                    continue
                if item.finish_reason is not None:
                    finished.add(item.choice)
                yield msgspec.structs.replace(item, request_id=request_id)
        finally:
            finished.update(choice for name, some in self.aborted if name == request_id for choice in some or ())
            if len(finished) < sampling.n:
                self.aborted.append((request_id, None))
                self.left.set()

    async def _wait(self, event: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(self.closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.closed.is_set():
            raise EngineFailedError("the engine was closed")

    async def abort(self, request_id: str, choices: list[int] | None = None) -> None:
        self.aborted.append((request_id, choices))

    async def drain(self) -> None:
        return

    async def close(self) -> None:
        self.is_alive = False
        self.closed.set()


def tokens(
    token_ids: Sequence[int],
    *,
    choice: int = 0,
    finish: str | None = "length",
    cached: int = 0,
    stop_reason: int | None = None,
    with_logprobs: bool = False,
) -> list[SequenceOutput]:
    """One output for each token, the last with the finish reason."""
    last = len(token_ids) - 1
    return [
        SequenceOutput(
            request_id="",
            choice=choice,
            token_ids=[token],
            logprobs=[logprobs(-0.25, 1, [(token, -0.25), (65, -3.0)])] if with_logprobs else [],
            finish_reason=finish if index == last else None,
            stop_reason=stop_reason if index == last else None,
            num_cached_tokens=cached,
        )
        for index, token in enumerate(token_ids)
    ]


def answering(tokenizer: Tokenizer) -> ScriptedEngine:
    """Answers each request with ANSWER and an end token."""
    ids = [*tokenizer.encode(ANSWER), tokenizer.eos_token_ids[0]]
    return ScriptedEngine(
        lambda prompt, params: [
            output
            for choice in range(params.n)
            for output in tokens(ids, choice=choice, finish="stop", cached=4, with_logprobs=params.logprobs is not None)
        ]
    )
