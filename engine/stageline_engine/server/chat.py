"""POST /v1/chat/completions: messages to prompt, deltas to chunks or to one message."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response

from stageline_engine.server import replies
from stageline_engine.server.answer import Answer
from stageline_engine.server.body import read_request
from stageline_engine.server.chat_prompt import chat_prompt
from stageline_engine.server.chat_request import ChatRequest
from stageline_engine.server.context import ServerContext
from stageline_engine.server.event_stream import DONE, event
from stageline_engine.server.fields import parse
from stageline_engine.server.generation import Delta, Job
from stageline_engine.server.logprobs import chat_logprobs, prompt_logprobs


async def chat_completions(context: ServerContext, request: Request) -> Response:
    """Answer one request."""
    arrived = time.monotonic()
    wanted = await read_request(context, request, lambda body: parse(ChatRequest, body))
    context.check_model(wanted.model)
    wanted.check()
    sampling = wanted.to_sampling(context.tokenizer.vocab_size)
    prompt = await chat_prompt(context, wanted)
    context.check_room(prompt, sampling.max_tokens, "messages")
    job = Job.of(request, "chatcmpl", arrived, [prompt], sampling)
    return await _Answer(context, wanted, job).respond(request, stream=bool(wanted.stream))


class _Answer(Answer):
    """Shapes the deltas of one request."""

    def __init__(self, context: ServerContext, wanted: ChatRequest, job: Job) -> None:
        super().__init__(context, job)
        self._wanted = wanted
        self._num_top = job.sampling.logprobs or 0

    async def whole(self) -> replies.ChatCompletion:
        """All at once."""
        deltas = await self._by_choice()
        reply = replies.ChatCompletion(
            id=self._job.reply_id,
            created=self._created,
            model=self._model,
            choices=[self._choice(one) for one in deltas],
            usage=self._usage.so_far(),
        )
        if self._wanted.prompt_logprobs is not None:
            shown = next((delta.prompt_logprobs for one in deltas for delta in one if delta.prompt_logprobs), [])
            reply.prompt_logprobs = prompt_logprobs(
                self._context.tokenizer, self._job.prompts[0], shown, self._wanted.prompt_logprobs
            )
        return reply

    def _choice(self, deltas: list[Delta]) -> replies.ChatChoice:
        last = deltas[-1]
        logprobs = None
        if self._job.sampling.logprobs is not None:
            reported = [token for delta in deltas for token in delta.text.reported]
            logprobs = chat_logprobs(self._context.tokenizer, reported, self._num_top)
        return replies.ChatChoice(
            index=last.index,
            message=replies.ChatMessage(content="".join(delta.text.text for delta in deltas)),
            logprobs=logprobs,
            finish_reason=last.text.finish_reason or "abort",
            stop_reason=last.text.stop_reason,
        )

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One by one."""
        has_begun = [False] * self._num_choices
        async with aclosing(self._deltas()) as found:
            async for delta in found:
                if not has_begun[delta.index]:
                    has_begun[delta.index] = True
                    beginning = replies.ChatDelta(role="assistant", content="")
                    yield event(self._chunk(replies.ChatChunkChoice(index=delta.index, delta=beginning)))
                text = delta.text
                if text.text or text.reported or text.finish_reason is not None:
                    yield event(self._chunk(self._piece(delta)))
        if self._wanted.wants_usage:
            yield event(self._chunk(None))
        yield DONE

    def _piece(self, delta: Delta) -> replies.ChatChunkChoice:
        text = delta.text
        piece = replies.ChatChunkChoice(
            index=delta.index,
            delta=replies.ChatDelta(content=text.text) if text.text else replies.ChatDelta(),
            finish_reason=text.finish_reason,
        )
        if text.finish_reason is not None and text.stop_reason is not None:
            piece.stop_reason = text.stop_reason
        if text.reported:
            piece.logprobs = chat_logprobs(self._context.tokenizer, text.reported, self._num_top)
        return piece

    def _chunk(self, choice: replies.ChatChunkChoice | None) -> replies.ChatChunk:
        chunk = replies.ChatChunk(
            id=self._job.reply_id,
            created=self._created,
            model=self._model,
            choices=[] if choice is None else [choice],
        )
        if self._wanted.wants_usage:
            shows = choice is None or self._wanted.wants_continuous_usage
            chunk.usage = self._usage.so_far() if shows else None
        return chunk
