"""One request's prompts through the engine: their outputs as text, merged, and counted in the metrics."""

from __future__ import annotations

import asyncio
import functools
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

import msgspec
from fastapi import Request

from stageline_engine.client.base import RequestTag
from stageline_engine.core.messages import SequenceOutput, TokenLogprobs
from stageline_engine.core.request import SamplingParams
from stageline_engine.server.context import ServerContext
from stageline_engine.server.tracing import ChoiceTrace, RequestTrace
from stageline_engine.text.output import ChoiceAssembler, TextDelta

Item = TypeVar("Item")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts of one request."""

    reply_id: str
    """As OpenAI's clients see it."""
    request_id: str
    """The client's, or one that was given to it; others may have the same."""
    engine_id: str
    """Unique within the engine's life."""
    arrived: float
    """``time.monotonic()`` when the request came."""
    prompts: list[list[int]]
    sampling: SamplingParams
    trace: RequestTrace | None
    """None: it is not traced."""

    @classmethod
    def of(cls, request: Request, kind: str, arrived: float, prompts: list[list[int]], sampling: SamplingParams) -> Job:
        """That of ``request``; ``kind`` is what OpenAI's ids of such answers begin with."""
        request_id = request_id_of(request)
        return cls(
            reply_id=f"{kind}-{request_id}",
            request_id=request_id,
            engine_id=uuid.uuid4().hex,
            arrived=arrived,
            prompts=prompts,
            sampling=sampling,
            trace=request.scope["state"]["trace"],
        )


def request_id_of(request: Request) -> str:
    """What the door has given to a request, or let in."""
    return str(request.scope["state"]["request_id"])


class Delta(msgspec.Struct, kw_only=True):
    """The next piece of one choice."""

    prompt: int
    """Index of the prompt."""
    index: int
    """Index of the choice in the answer: prompts one after the other, each with its n choices."""
    text: TextDelta
    num_cached_tokens: int
    prompt_logprobs: list[TokenLogprobs | None]
    """On the first output of a prompt's choices, when asked for."""


async def generate(context: ServerContext, job: Job) -> AsyncGenerator[Delta, None]:
    """The deltas of all prompts as they come; leaving early aborts what still runs."""
    streams = [_generate_one(context, job, index) for index in range(len(job.prompts))]
    async with aclosing(streams[0] if len(streams) == 1 else merged(streams)) as deltas:
        async for delta in deltas:
            yield delta


async def _generate_one(context: ServerContext, job: Job, prompt: int) -> AsyncGenerator[Delta, None]:
    request_id = f"{job.engine_id}-{prompt}"
    trace = job.trace
    choices = [
        _Choice(context, job.sampling, None if trace is None else trace.choice(prompt, choice))
        for choice in range(job.sampling.n)
    ]
    tag = RequestTag(job.request_id, None if trace is None else functools.partial(trace.told, prompt))
    num_running = len(choices)
    outputs = context.engine.generate(request_id, job.prompts[prompt], job.sampling, tag)
    is_first = True
    try:
        async with aclosing(outputs):
            async for output in outputs:
                choice = choices[output.choice]
                if choice.assembler.is_finished:
                    continue
                now = time.monotonic()
                if is_first:
                    context.metrics.first_token(len(job.prompts[prompt]), now - job.arrived)
                    is_first = False
                delta = choice.take(output, now)
                if delta.finish_reason is not None:
                    num_running -= 1
                    context.metrics.choice_ended(delta.finish_reason)
                    if output.finish_reason is None and num_running:
                        await context.engine.abort(request_id, [output.choice])
                yield Delta(
                    prompt=prompt,
                    index=prompt * job.sampling.n + output.choice,
                    text=delta,
                    num_cached_tokens=output.num_cached_tokens,
                    prompt_logprobs=output.prompt_logprobs,
                )
                if not num_running:
                    # The last one may have ended at a stop string, of which the engine knows nothing.
                    context.metrics.prompt_ended(time.monotonic() - job.arrived)
                    return
    except (GeneratorExit, asyncio.CancelledError):
        for _ in range(num_running):
            context.metrics.choice_ended("abort")
        raise


class _Choice:
    """A choice's text and the time of its last token."""

    def __init__(self, context: ServerContext, sampling: SamplingParams, trace: ChoiceTrace | None) -> None:
        self._trace = trace
        self.assembler = ChoiceAssembler(context.tokenizer, sampling)
        self._metrics = context.metrics
        self._first = self._last = 0.0
        self._prefill_seconds: float | None = None

    def take(self, output: SequenceOutput, now: float) -> TextDelta:
        """The text of ``output``, which arrived at ``now``."""
        delta = self.assembler.take(output)
        if output.queue_seconds is not None and output.prefill_seconds is not None:
            self._metrics.choice_began(output.queue_seconds, output.prefill_seconds)
            self._first, self._prefill_seconds = now, output.prefill_seconds
            if self._trace is not None:
                self._trace.began(output.queue_seconds, output.prefill_seconds)
        if self._trace is not None:
            self._trace.took(len(delta.token_ids), now, delta.finish_reason)
        if delta.token_ids:
            self._metrics.tokens(len(delta.token_ids))
            if self._last:
                self._metrics.between_tokens((now - self._last) / len(delta.token_ids))
            self._last = now
        if delta.finish_reason in ("stop", "length") and self._prefill_seconds is not None:
            self._metrics.choice_decoded(self._prefill_seconds, now - self._first)
        return delta


async def merged(streams: Sequence[AsyncGenerator[Item, None]]) -> AsyncGenerator[Item, None]:
    """Items of all streams as they come; the first error ends them all, and so does leaving early."""
    # One place: a reader that is slow holds up the streams instead of filling memory.
    queue: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(maxsize=1)

    async def pump(stream: AsyncGenerator[Item, None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await queue.put(item)
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    try:
        num_open = len(tasks)
        while num_open:
            item = await queue.get()
            if item is None:
                num_open -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
