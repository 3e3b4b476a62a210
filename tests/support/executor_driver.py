"""Drives any executor with plans written by hand: two micro-batches in flight, all plans sent ahead of the tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import zmq

from stageline_engine.core.deployment import RankSettings, StageSpec
from stageline_engine.core.messages import AdmitSequence, Segment, StepPlan, StepReport, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.executor.base import Executor
from stageline_engine.executor.inline import InlineExecutor
from stageline_engine.executor.local import LocalExecutor
from support.tiny_models import LAYERS

BLOCK_SIZE = 4
NUM_BLOCKS = 128
PATIENCE_SECONDS = 60.0
"""A test that waits so long has found a hang."""


def stage_settings(folder: Path | str, bounds: Sequence[int], tp: Sequence[int]) -> list[RankSettings]:
    """Settings of stages with the layer ranges between ``bounds``."""
    return [
        RankSettings(
            model_folder=str(folder),
            spec=StageSpec(stage=stage, num_stages=len(tp), start=bounds[stage], end=bounds[stage + 1], tp=size),
            dtype="float32",
            device="cpu",
            threads=1,
            block_size=BLOCK_SIZE,
            max_model_len=96,
            max_num_batched_tokens=64,
            max_num_seqs=8,
        )
        for stage, size in enumerate(tp)
    ]


def tokens_of_one_process(folder: Path, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Greedy tokens after each prompt, from the tiny model in one stage inside this process."""
    executor = InlineExecutor()
    executor.start(stage_settings(folder, [0, LAYERS], [1]), lambda loaded: NUM_BLOCKS, lambda line: None, 1)
    try:
        return ExecutorDriver(executor).generate(prompts, max_tokens)
    finally:
        executor.close()


class ExecutorDriver:
    """Greedy tokens from a started executor. ``reports`` and ``tokens`` keep all that came back."""

    def __init__(self, executor: Executor, epoch: int = 1) -> None:
        self._executor = executor
        self._epoch = epoch
        self._step = 0
        self._num_sequences = 0
        self._free_block = 1
        self._poller = zmq.Poller()
        self.sockets = executor.sockets()
        for socket in self.sockets:
            self._poller.register(socket, zmq.POLLIN)
        self.reports: list[StepReport] = []
        self.results: list[StepResult] = []

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
        """Tokens after each prompt; the prompts are halved into two micro-batches."""
        sequences = [self.admit(prompt, max_tokens) for prompt in prompts]
        halves = [half for half in (sequences[0::2], sequences[1::2]) if half]
        last_steps = [0] * len(halves)
        for round_ in range(max_tokens):
            for slot, half in enumerate(halves):
                last_steps[slot] = self._submit_round(slot, half, round_, last_steps[slot], max_tokens)
        self.wait_for(self._step)
        produced: dict[int, list[int]] = {}
        for result in self.results:
            for sampled in result.tokens:
                produced.setdefault(sampled.seq, []).append(sampled.token)
        return [produced[seq] for seq, _ in sequences]

    def admit(self, prompt: Sequence[int], max_tokens: int) -> tuple[int, int]:
        """Returns (sequence, length of the prompt)."""
        self._num_sequences += 1
        greedy = SamplingParams(temperature=0.0, max_tokens=max_tokens, seed=0)
        self._executor.admit(AdmitSequence(self._epoch, self._num_sequences, list(prompt), len(prompt), greedy, 0, ()))
        return self._num_sequences, len(prompt)

    def wait_for(self, step: int) -> None:
        """Until the result of ``step`` has come back. Raises what the executor tells of a failure."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self.results and self.results[-1].step >= step):
            self._poller.poll(200)
            for event in self._executor.poll():
                if isinstance(event, StepResult):
                    self.results.append(event)
                elif isinstance(event, StepReport):
                    self.reports.append(event)
                else:
                    raise event
            assert time.monotonic() < deadline, f"no result of step {step}"

    def _submit_round(
        self, slot: int, half: Sequence[tuple[int, int]], round_: int, last_step: int, max_tokens: int
    ) -> int:
        self._step += 1
        segments = [
            Segment(seq, 0, length, True) if round_ == 0 else Segment(seq, length + round_ - 1, 1, True)
            for seq, length in half
        ]
        new_blocks = [(seq, self._blocks(length + max_tokens)) for seq, length in half] if round_ == 0 else []
        self._executor.submit(StepPlan(self._epoch, self._step, slot, segments, new_blocks, [], last_step))
        return self._step

    def _blocks(self, num_tokens: int) -> list[int]:
        first = self._free_block
        self._free_block += -(-num_tokens // BLOCK_SIZE)
        return list(range(first, self._free_block))


class Running:
    """Ranks as processes, started and driven."""

    def __init__(self, folder: Path, bounds: Sequence[int], tp: Sequence[int]) -> None:
        self.tp = tp
        self.lines: list[str] = []
        self.executor = LocalExecutor()
        settings = stage_settings(folder, bounds, tp)
        self.started = self.executor.start(settings, lambda loaded: NUM_BLOCKS, self.lines.append, 1)
        self.driver = ExecutorDriver(self.executor)

    def close(self) -> None:
        """End the processes."""
        self.executor.close()
