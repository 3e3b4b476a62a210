"""POST /v1/completions: texts or token ids to prompts, deltas to chunks or to whole choices."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response

from stageline_engine.core.messages import TokenLogprobs
from stageline_engine.server import replies
from stageline_engine.server.answer import Answer
from stageline_engine.server.body import read_request
from stageline_engine.server.completion_request import CompletionRequest
from stageline_engine.server.context import ServerContext
from stageline_engine.server.echo import Echo
from stageline_engine.server.event_stream import DONE, event
from stageline_engine.server.fields import parse
from stageline_engine.server.generation import Delta, Job
from stageline_engine.server.logprobs import completion_logprobs, prompt_logprobs
from stageline_engine.text.output import ReportedToken


async def completions(context: ServerContext, request: Request) -> Response:
    """Answer one request."""
    arrived = time.monotonic()
    wanted = await read_request(context, request, lambda body: parse(CompletionRequest, body))
    context.check_model(wanted.model)
    wanted.check()
    sampling = wanted.to_sampling(context.tokenizer.vocab_size)
    prompts = await _prompts(context, wanted)
    for prompt in prompts:
        context.check_room(prompt, sampling.max_tokens, "prompt")
    job = Job.of(request, "cmpl", arrived, prompts, sampling)
    return await _Answer(context, wanted, job).respond(request, stream=bool(wanted.stream))


async def _prompts(context: ServerContext, wanted: CompletionRequest) -> list[list[int]]:
    # All cheap checks come before the first tokenisation.
    for prompt in wanted.prompt:
        if isinstance(prompt, str):
            context.check_length(prompt, "prompt")
        else:
            context.check_tokens(prompt, "prompt")
    add = wanted.add_special_tokens is not False
    return [
        await context.encode(prompt, "prompt", add_special_tokens=add) if isinstance(prompt, str) else prompt
        for prompt in wanted.prompt
    ]


class _Answer(Answer):
    """Shapes the deltas of one request."""

    def __init__(self, context: ServerContext, wanted: CompletionRequest, job: Job) -> None:
        super().__init__(context, job)
        self._wanted = wanted
        self._echoes = (
            [
                Echo(context.tokenizer, ids, text if isinstance(text, str) else None)
                for text, ids in zip(wanted.prompt, job.prompts, strict=True)
            ]
            if wanted.echo
            else []
        )

    async def whole(self) -> replies.Completion:
        """All at once."""
        deltas = await self._by_choice()
        reply = self._reply([self._choice(one) for one in deltas])
        reply.usage = self._usage.so_far()
        return reply

    def _choice(self, deltas: list[Delta]) -> replies.CompletionChoice:
        last = deltas[-1]
        shown = next((delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs), [])
        choice = self._piece(
            last,
            "".join(delta.text.text for delta in deltas),
            [token for delta in deltas for token in delta.text.reported],
            shown,
            begins=True,
        )
        if self._wanted.prompt_logprobs is not None:
            choice.prompt_logprobs = prompt_logprobs(
                self._context.tokenizer, self._job.prompts[last.prompt], shown, self._wanted.prompt_logprobs
            )
        return choice

    async def events(self) -> AsyncGenerator[bytes, None]:
        """One by one."""
        has_begun = [False] * self._num_choices
        async with aclosing(self._deltas()) as found:
            async for delta in found:
                text, begins = delta.text, not has_begun[delta.index]
                if text.text or text.reported or text.finish_reason is not None or (begins and self._echoes):
                    has_begun[delta.index] = True
                    piece = self._piece(delta, text.text, text.reported, delta.prompt_logprobs, begins=begins)
                    yield event(self._chunk([piece]))
        if self._wanted.wants_usage:
            yield event(self._chunk([]))
        yield DONE

    def _piece(
        self,
        delta: Delta,
        text: str,
        reported: list[ReportedToken],
        prompt_logprobs: list[TokenLogprobs | None],
        *,
        begins: bool,
    ) -> replies.CompletionChoice:
        """A choice with ``text`` and the finish reason of ``delta``; after the echoed prompt, if it is the first."""
        echo = self._echoes[delta.prompt] if self._echoes else None
        tokens: list[tuple[int, TokenLogprobs | None, int]] = []
        if echo is not None and begins:
            text = echo.text + text
            tokens = echo.tokens(prompt_logprobs)
        start = len(echo.text) if echo is not None else 0
        tokens += [(token.token_id, token.logprobs, start + token.offset) for token in reported]
        wants_logprobs = self._wanted.logprobs is not None and (tokens or not self._wanted.stream)
        return replies.CompletionChoice(
            index=delta.index,
            text=text,
            logprobs=completion_logprobs(self._context.tokenizer, tokens, self._wanted.logprobs or 0)
            if wants_logprobs
            else None,
            finish_reason=delta.text.finish_reason,
            stop_reason=delta.text.stop_reason if delta.text.finish_reason is not None else None,
        )

    def _reply(self, choices: list[replies.CompletionChoice]) -> replies.Completion:
        return replies.Completion(id=self._job.reply_id, created=self._created, model=self._model, choices=choices)

    def _chunk(self, choices: list[replies.CompletionChoice]) -> replies.Completion:
        chunk = self._reply(choices)
        if self._wanted.wants_usage:
            shows = not choices or self._wanted.wants_continuous_usage
            chunk.usage = self._usage.so_far() if shows else None
        return chunk
