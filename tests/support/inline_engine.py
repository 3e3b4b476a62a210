"""The real scheduler, loop and stages in this process, without sockets: for parity over many cuts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stageline_engine.cache.allocator import BlockAllocator
from stageline_engine.core.deployment import RankLoaded, RankSettings, StageSpec
from stageline_engine.core.messages import AbortSequences, AddRequest, CoreEvent, Outputs, Rejected, SequenceOutput
from stageline_engine.core.request import SamplingParams
from stageline_engine.engine.loop import EngineLoop
from stageline_engine.engine.stats import StatsBook
from stageline_engine.executor.inline import InlineExecutor
from stageline_engine.scheduler.predictor import StepTimePredictor
from stageline_engine.scheduler.scheduler import Scheduler, SchedulerLimits
from stageline_engine.text.special_tokens import model_vocab_size

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


def even_split(num_layers: int, stages: int) -> list[tuple[int, int]]:
    """Contiguous ranges whose sizes differ by at most one."""
    bounds = [num_layers * stage // stages for stage in range(stages + 1)]
    return list(zip(bounds, bounds[1:], strict=False))


class InlineEngine:
    """An engine without processes; close it, or use it as a context."""

    def __init__(
        self,
        folder: Path,
        ranges: Sequence[tuple[int, int]],
        tp: Sequence[int] | int = 1,
        *,
        num_blocks: int = 256,
        block_size: int = 4,
        max_num_batched_tokens: int = 64,
        max_num_seqs: int = 16,
        max_model_len: int = 128,
        slots: int = 2,
        enable_prefix_caching: bool = True,
    ) -> None:
        tps = [tp] * len(ranges) if isinstance(tp, int) else list(tp)
        settings = [
            RankSettings(
                model_folder=str(folder),
                spec=StageSpec(stage=stage, num_stages=len(ranges), start=start, end=end, tp=tps[stage]),
                dtype="float32",
                device="cpu",
                threads=1,
                block_size=block_size,
                max_model_len=max_model_len,
                max_num_batched_tokens=max_num_batched_tokens,
                max_num_seqs=max_num_seqs,
            )
            for stage, (start, end) in enumerate(ranges)
        ]
        self.executor = InlineExecutor()
        self.loaded: list[RankLoaded] = []

        def choose(loaded: list[RankLoaded]) -> int:
            self.loaded = loaded
            return num_blocks

        started = self.executor.start(settings, choose, lambda line: None, 1)
        self.scheduler = Scheduler(
            SchedulerLimits(
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                max_model_len=max_model_len,
                slots=slots,
                max_waiting=1024,
            ),
            BlockAllocator(started.num_blocks, block_size, enable_prefix_caching=enable_prefix_caching),
            StepTimePredictor(len(ranges)),
            epoch=1,
            num_stages=len(ranges),
        )
        self.events: list[CoreEvent] = []
        self.stats = StatsBook(len(ranges), time.monotonic())
        vocab_size = model_vocab_size(folder)
        self.loop = EngineLoop(self.scheduler, self.executor, self.stats, self.events.append, (), 0, 60.0, vocab_size)
        self._num_requests = 0

    def __enter__(self) -> InlineEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.executor.close()

    def add(self, prompt: Sequence[int], params: SamplingParams = GREEDY) -> str:
        """Queue a request; returns its id."""
        self._num_requests += 1
        request_id = f"r{self._num_requests}"
        self.loop.handle(AddRequest(request_id, list(prompt), params))
        return request_id

    def abort(self, request_id: str) -> None:
        self.loop.handle(AbortSequences(request_id))

    def run(self, each_turn: Callable[[int], None] | None = None, most_turns: int = 20_000) -> list[SequenceOutput]:
        """Turn the loop until nothing is left; returns the outputs in order."""
        turn = 0
        while self.scheduler.has_work:
            self.loop.turn(time.monotonic())
            if each_turn is not None:
                each_turn(turn)
            turn += 1
            assert turn < most_turns, "the engine makes no progress"
        refused = [event for event in self.events if isinstance(event, Rejected)]
        assert not refused, refused
        outputs = [output for event in self.events if isinstance(event, Outputs) for output in event.sequences]
        self.events.clear()
        return outputs

    def generate(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams] = GREEDY
    ) -> list[list[int]]:
        """All prompts at once; tokens of choice 0 of each."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        ids = [self.add(prompt, one) for prompt, one in zip(prompts, each, strict=True)]
        tokens = tokens_by_request(self.run())
        return [tokens[request_id, 0] for request_id in ids]


def tokens_by_request(outputs: Sequence[SequenceOutput]) -> dict[tuple[str, int], list[int]]:
    """Tokens of each (request id, choice)."""
    tokens: dict[tuple[str, int], list[int]] = {}
    for output in outputs:
        tokens.setdefault((output.request_id, output.choice), []).extend(output.token_ids)
    return tokens
