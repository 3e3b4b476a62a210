"""The synchronous Python API: ``LLM(model, stages=2).generate(prompts, params)``.

An asyncio loop in a thread of its own drives the same AsyncEngine that the server uses.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import SupportsIndex

import msgspec
from tqdm import tqdm

from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.client.launch import prepare
from stageline_engine.client.loop_thread import LoopThread
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from stageline_engine.core.errors import EngineFailedError, InvalidRequestError
from stageline_engine.core.messages import TokenLogprobs
from stageline_engine.core.request import SamplingParams, checked_prompt, checked_sampling, checked_text
from stageline_engine.engine.setup import CoreSetup
from stageline_engine.text.output import ChoiceAssembler
from stageline_engine.text.tokenizer import Tokenizer


class Completion(msgspec.Struct, kw_only=True):
    """One of a prompt's ``n`` outputs."""

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    """One for each token, when asked for."""
    finish_reason: str
    """``stop`` or ``length``."""


class RequestOutput(msgspec.Struct, kw_only=True):
    """A prompt and what the model made of it."""

    prompt: str | None
    """None when the prompt was given as token ids."""
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs | None]
    outputs: list[Completion]
    num_cached_tokens: int


class LLM:
    """A model served by stages of this machine, for use inside a program.

    Args:
        model: local directory, GGUF file, ``hf://org/name[@revision]`` or ``pip://package``.
        stages: pipeline stages; ``tp``: tensor-parallel ranks per stage, one number or one for each stage.
        show_progress: draw a bar while prompts run, and say a line for each long step of the start.

    The other arguments are fields of :mod:`stageline_engine.core.config` and explained there.

    Raises:
        ConfigurationError: the model or the cut is wrong.
        EngineStartError: a stage did not start.
    """

    def __init__(
        self,
        model: str,
        *,
        stages: int = 1,
        tp: int | Sequence[int] = 1,
        layer_split: Sequence[int] | None = None,
        dtype: str = "auto",
        max_model_len: int | None = None,
        allow_unverified_architecture: bool = False,
        seed: int = 0,
        device: str = "auto",
        cache: CacheConfig | None = None,
        scheduler: SchedulerConfig | None = None,
        threads: int | None = None,
        show_progress: bool = True,
    ) -> None:
        config = EngineConfig(
            model=ModelConfig(
                model=model,
                dtype=dtype,
                max_model_len=max_model_len,
                allow_unverified_architecture=allow_unverified_architecture,
                seed=seed,
            ),
            parallel=ParallelConfig(
                stages=stages,
                tp=tuple(tp) if isinstance(tp, Sequence) else (tp,),
                layer_split=tuple(layer_split) if isinstance(layer_split, Sequence) else layer_split,
                threads=threads,
                device=device,
            ),
            cache=CacheConfig() if cache is None else cache,
            scheduler=SchedulerConfig() if scheduler is None else scheduler,
        )
        self._show_progress = show_progress
        launch = prepare(config, self._say)
        self.tokenizer = Tokenizer(launch.folder.path)
        self._vocab_size = launch.setup.profile.vocab_size
        self._room = _Room(config.scheduler.max_waiting)
        self._started: AsyncEngine | None = None
        self._loop = LoopThread("stageline-llm")
        try:
            self._loop.run(self._start(launch.setup))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[SupportsIndex]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Run all prompts and return their outputs in the prompts' order. Blocks.

        Args:
            prompts: texts, or lists of token ids (whole numbers of any kind, numpy's too).
            params: one for all prompts, or one for each.

        Raises:
            InvalidRequestError: a value has a wrong type or is out of range, or a prompt does not fit.
            EngineFailedError: the engine ended, or was closed.
            KeyboardInterrupt: the requests are ended, and the engine can be used on.
        """
        checked = self._checked_prompts(prompts)
        if params is None:
            params = SamplingParams()
        each = list(params) if isinstance(params, Sequence) else [params] * len(checked)
        if len(each) != len(checked):
            raise InvalidRequestError(
                "params", f"{len(each)} values", f"give one, or {len(checked)}: one for each prompt"
            )
        each = [checked_sampling(one, self._vocab_size) for one in each]
        return self._loop.run(self._generate_all(self._engine, checked, each))

    def close(self) -> None:
        """End the engine. May be called twice."""
        if self._loop.is_running:
            if self._started is not None:
                self._loop.run(self._started.close())
            self._loop.stop()

    @property
    def _engine(self) -> AsyncEngine:
        if self._started is None or not self._loop.is_running:
            raise EngineFailedError("the engine is closed")
        return self._started

    async def _start(self, setup: CoreSetup) -> None:
        # Kept from here on: an interrupt may come when the engine has started and its caller has not been told.
        self._started = await AsyncEngine.start(setup, self._say)

    def _checked_prompts(
        self, prompts: str | Sequence[str] | Sequence[Sequence[SupportsIndex]]
    ) -> list[str | list[int]]:
        if isinstance(prompts, str):
            return [checked_text("prompt", prompts)]
        if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | bytearray | Mapping):
            raise InvalidRequestError(
                "prompts", prompts, "give a text, a list of texts, or a list of lists of token ids"
            )
        return [
            checked_text("prompt", one) if isinstance(one, str) else checked_prompt(one, self._vocab_size)
            for one in prompts
        ]

    async def _generate_all(
        self, engine: AsyncEngine, prompts: list[str | list[int]], params: list[SamplingParams]
    ) -> list[RequestOutput]:
        tasks: list[asyncio.Task[RequestOutput]] = []
        with tqdm(total=len(prompts), desc="Prompts", disable=not self._show_progress, dynamic_ncols=True) as bar:

            async def one(prompt: str | list[int], sampling: SamplingParams) -> RequestOutput:
                output = await self._generate_one(engine, prompt, sampling)
                bar.update()
                return output

            try:
                async with asyncio.TaskGroup() as group:
                    for prompt, sampling in zip(prompts, params, strict=True):
                        await self._room.take(sampling.n)
                        tasks.append(group.create_task(one(prompt, sampling)))
                        self._room.give_back_after(tasks[-1], sampling.n)
            except BaseExceptionGroup as errors:
                # The first one cancelled the others; it is what the caller has to know.
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _generate_one(
        self, engine: AsyncEngine, prompt: str | list[int], sampling: SamplingParams
    ) -> RequestOutput:
        token_ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        request_id = uuid.uuid4().hex
        assemblers = [ChoiceAssembler(self.tokenizer, sampling) for _ in range(sampling.n)]
        outputs = [
            Completion(index=index, text="", token_ids=[], logprobs=[], finish_reason="") for index in range(sampling.n)
        ]
        result = RequestOutput(
            prompt=prompt if isinstance(prompt, str) else None,
            prompt_token_ids=token_ids,
            prompt_logprobs=[],
            outputs=outputs,
            num_cached_tokens=0,
        )
        async for output in engine.generate(request_id, token_ids, sampling):
            completion = outputs[output.choice]
            if completion.finish_reason:
                continue
            result.num_cached_tokens = output.num_cached_tokens
            result.prompt_logprobs = output.prompt_logprobs or result.prompt_logprobs
            delta = assemblers[output.choice].take(output)
            completion.text += delta.text
            completion.token_ids += delta.token_ids
            completion.logprobs += delta.logprobs
            if delta.finish_reason is not None:
                completion.finish_reason = delta.finish_reason
                if output.finish_reason is None:
                    await engine.abort(request_id, [output.choice])
        return result

    def _say(self, line: str) -> None:
        if self._show_progress:
            # Standard output belongs to the program.
            tqdm.write(line, file=sys.stderr)


class _Room:
    """Sequences that may be with the engine at the same time: no more than its queue takes. For one event loop."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._freed = asyncio.Event()

    async def take(self, count: int) -> None:
        """Wait until so many are free; a request of more than the whole room gets in alone."""
        count = min(count, self._size)
        while self._free < count:
            self._freed.clear()
            await self._freed.wait()
        self._free -= count

    def give_back_after(self, task: asyncio.Task[object], count: int) -> None:
        """Undo a take when the task has ended, even if it was cancelled before its first step."""
        task.add_done_callback(lambda _: self._give_back(min(count, self._size)))

    def _give_back(self, count: int) -> None:
        self._free += count
        self._freed.set()
