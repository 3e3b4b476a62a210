"""Stage models of one pipeline in this process, without scheduler, executor or links: the models layer by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from stageline_engine.cache.pool import KVPool
from stageline_engine.core.deployment import RankSettings, StageSpec
from stageline_engine.executor.thread_ranks import RankThreads
from stageline_engine.models.rows import IntArray, RowBatch, RowLayout
from stageline_engine.models.stage_model import StageModel, load_stage_model
from stageline_engine.models.tensor_group import TensorGroup

BLOCK_SIZE = 4
MAX_MODEL_LEN = 96

Segment = tuple[int, int, int]
"""Sequence, position of its first row, rows."""


def even_split(num_layers: int, stages: int) -> list[tuple[int, int]]:
    """Contiguous ranges whose sizes differ by at most one."""
    bounds = [num_layers * stage // stages for stage in range(stages + 1)]
    return list(zip(bounds, bounds[1:], strict=False))


def rank_settings(
    folder: Path,
    *,
    stage: int,
    ranges: Sequence[tuple[int, int]],
    tp: int = 1,
    max_model_len: int = MAX_MODEL_LEN,
    allow_unverified: bool = False,
) -> RankSettings:
    """Settings of the ranks of ``stage``, float32 on the CPU."""
    start, end = ranges[stage]
    return RankSettings(
        model_folder=str(folder),
        spec=StageSpec(stage=stage, num_stages=len(ranges), start=start, end=end, tp=tp),
        dtype="float32",
        device="cpu",
        threads=1,
        block_size=BLOCK_SIZE,
        max_model_len=max_model_len,
        max_num_batched_tokens=64,
        max_num_seqs=4,
        allow_unverified_architecture=allow_unverified,
    )


Given = list[torch.Tensor] | None
"""What each rank of the stage before hands on; None: there is none."""


@dataclass
class _Rank:
    number: int
    model: StageModel
    pool: KVPool | None = None

    def forward(self, tokens: list[int], segments: list[Segment], tables_NC: IntArray, given: Given) -> torch.Tensor:
        sequences, starts, lengths = (np.array(column, np.int64) for column in zip(*segments, strict=True))
        assert self.pool is not None
        layout, num_decode = RowLayout.of(self.pool), int((lengths == 1).sum())
        rows = RowBatch(layout, np.array(tokens, np.int64), starts, lengths, tables_NC[sequences], num_decode)
        return self.model.forward(rows, self.pool, given[self.number % len(given)] if given else None)


def _load(settings: RankSettings, rank: int, group: TensorGroup) -> _Rank:
    return _Rank(rank, load_stage_model(settings, rank, group))


class Pipeline:
    """Loaded stages with KV pools; steps all sequences together, each with blocks of its own."""

    def __init__(
        self,
        folder: Path,
        ranges: Sequence[tuple[int, int]],
        tp: Sequence[int],
        max_model_len: int = MAX_MODEL_LEN,
        allow_unverified: bool = False,
    ) -> None:
        self._blocks_each = -(-max_model_len // BLOCK_SIZE)
        self._stages: list[RankThreads[_Rank]] = []
        for stage, size in enumerate(tp):
            settings = rank_settings(
                folder,
                stage=stage,
                ranges=ranges,
                tp=size,
                max_model_len=max_model_len,
                allow_unverified=allow_unverified,
            )
            ranks: RankThreads[_Rank] = RankThreads(stage, size)
            self._stages.append(ranks)
            try:
                ranks.make(partial(_load, settings))
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stage in self._stages:
            stage.close()

    def models(self) -> list[list[StageModel]]:
        """By stage and rank."""
        return [stage.call(lambda rank: rank.model) for stage in self._stages]

    def greedy(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, chunk: int = 64
    ) -> tuple[list[list[int]], list[torch.Tensor]]:
        """Tokens and log probabilities [max_tokens, V] of each prompt's greedy continuation.

        Prompts are fed in chunks of ``chunk`` rows, all sequences in one micro-batch.
        """
        self._make_pools(len(prompts))
        texts = [list(prompt) for prompt in prompts]
        wanted = [len(prompt) + max_tokens for prompt in prompts]
        logprobs: list[list[torch.Tensor]] = [[] for _ in prompts]
        done = [0] * len(prompts)
        while running := [index for index, text in enumerate(texts) if len(text) < wanted[index]]:
            lengths = {index: min(chunk, len(texts[index]) - done[index]) for index in running}
            # Decode rows come first.
            running.sort(key=lambda index: lengths[index] > 1)
            segments = [(index, done[index], lengths[index]) for index in running]
            tokens = [token for index, start, length in segments for token in texts[index][start : start + length]]
            for index, scores_V in zip(running, self._step(tokens, segments, len(prompts)), strict=True):
                done[index] += lengths[index]
                if done[index] == len(texts[index]):
                    logprobs[index].append(scores_V.log_softmax(-1))
                    texts[index].append(int(scores_V.argmax()))
        made = [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
        return made, [torch.stack(rows) for rows in logprobs]

    def _make_pools(self, sequences: int) -> None:
        def make(rank: _Rank) -> None:
            model = rank.model
            blocks = 1 + sequences * self._blocks_each
            rank.pool = KVPool(model.kv_layers, blocks, BLOCK_SIZE, model.dtype, model.device)

        for stage in self._stages:
            stage.call(make)

    def _step(self, tokens: list[int], segments: list[Segment], sequences: int) -> torch.Tensor:
        """Logits [R, V] after the last row of each segment."""
        # Backwards, so that a sequence's blocks do not ascend.
        tables = 1 + np.arange(sequences * self._blocks_each).reshape(sequences, -1)[:, ::-1]
        hidden: Given = None
        for stage in self._stages:
            hidden = stage.call(
                partial(_Rank.forward, tokens=tokens, segments=segments, tables_NC=tables, given=hidden)
            )
        assert hidden is not None
        last = torch.tensor([length for _, _, length in segments]).cumsum(0) - 1
        logits = self._stages[-1].call(lambda rank: rank.model.logits(hidden[rank.number][last]))
        assert all(torch.equal(logits[0], other) for other in logits)
        return logits[0]


def load_pipeline(folder: Path, ranges: Sequence[tuple[int, int]], tp: Sequence[int]) -> list[list[StageModel]]:
    """Load every rank of every stage, to look at only; by stage and rank."""
    with Pipeline(folder, ranges, tp) as pipeline:
        return pipeline.models()
