"""What the answers of both completion endpoints have in common: one request's deltas, counted, whole or as a stream."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from fastapi import Request, Response

from stageline_engine.server import replies
from stageline_engine.server.context import ServerContext
from stageline_engine.server.event_stream import EventStream, while_connected
from stageline_engine.server.generation import Delta, Job, generate
from stageline_engine.server.usage import UsageCounter


class Answer(ABC):
    """Makes the answer to one request; the endpoint gives its shape."""

    def __init__(self, context: ServerContext, job: Job) -> None:
        self._context = context
        self._job = job
        self._created = int(time.time())
        self._model = context.settings.served_model_name
        self._usage = UsageCounter(job.prompts)
        self._num_choices = len(job.prompts) * job.sampling.n
        if job.trace is not None:
            job.trace.describe(
                gen_ai__request__model=self._model,
                gen_ai__response__id=job.reply_id,
                gen_ai__request__choice__count=job.sampling.n,
                gen_ai__request__temperature=job.sampling.temperature,
                gen_ai__usage__input_tokens=sum(map(len, job.prompts)),
            )

    async def respond(self, request: Request, *, stream: bool) -> Response:
        """The HTTP response; the work ends when the client leaves."""
        if stream:
            return EventStream(self._context, self._job.request_id, self.events())
        whole = await while_connected(request, self.whole())
        return Response(replies.encode(whole), media_type="application/json")

    @abstractmethod
    async def whole(self) -> msgspec.Struct:
        """All at once."""

    @abstractmethod
    def events(self) -> AsyncGenerator[bytes, None]:
        """One by one."""

    async def _deltas(self) -> AsyncGenerator[Delta, None]:
        async with aclosing(generate(self._context, self._job)) as found:
            async for delta in found:
                self._usage.add(delta)
                yield delta

    async def _by_choice(self) -> list[list[Delta]]:
        deltas: list[list[Delta]] = [[] for _ in range(self._num_choices)]
        async with aclosing(self._deltas()) as found:
            async for delta in found:
                deltas[delta.index].append(delta)
        return deltas
