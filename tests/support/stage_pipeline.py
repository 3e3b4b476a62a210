"""Stage models of one pipeline in this process, without scheduler, executor or links: the models layer by itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from stageline_engine.cache.pool import KVPool
from stageline_engine.core.deployment import RankSettings, StageSpec
from stageline_engine.models.rows import RowBatch
from stageline_engine.models.stage_model import StageModel, load_stage_model
from stageline_engine.models.tensor_group import TensorGroup
from support.memory_group import memory_groups

BLOCK_SIZE = 4


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
    max_model_len: int = 96,
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


def load_pipeline(
    folder: Path,
    ranges: Sequence[tuple[int, int]],
    tp: Sequence[int],
    max_model_len: int = 96,
    allow_unverified: bool = False,
) -> list[list[StageModel]]:
    """Load every rank of every stage; by stage and rank."""
    pipeline = []
    for stage, size in enumerate(tp):
        settings = rank_settings(
            folder,
            stage=stage,
            ranges=ranges,
            tp=size,
            max_model_len=max_model_len,
            allow_unverified=allow_unverified,
        )
        groups: list[TensorGroup] = memory_groups(size)
        with ThreadPoolExecutor(size) as ranks:
            pipeline.append(list(ranks.map(load_stage_model, [settings] * size, range(size), groups)))
    return pipeline


class Pipeline:
    """Loaded stages with KV pools; steps all sequences together, each with blocks of its own."""

    def __init__(
        self,
        folder: Path,
        ranges: Sequence[tuple[int, int]],
        tp: Sequence[int],
        max_model_len: int = 96,
        allow_unverified: bool = False,
    ) -> None:
        self.stages = load_pipeline(folder, ranges, tp, max_model_len, allow_unverified)
        self._blocks_each = -(-max_model_len // BLOCK_SIZE)
        self._threads = [ThreadPoolExecutor(size) for size in tp]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for threads in self._threads:
            threads.shutdown()

    def greedy(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, chunk: int = 64
    ) -> tuple[list[list[int]], list[torch.Tensor]]:
        """Tokens and log probabilities [max_tokens, V] of each prompt's greedy continuation.

        Prompts are fed in chunks of ``chunk`` rows, all sequences in one micro-batch.
        """
        pools = self._pools(len(prompts))
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
            logits_RV = self._step(tokens, segments, pools)
            for index, scores_V in zip(running, logits_RV, strict=True):
                done[index] += lengths[index]
                if done[index] == len(texts[index]):
                    logprobs[index].append(scores_V.log_softmax(-1))
                    texts[index].append(int(scores_V.argmax()))
        made = [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
        return made, [torch.stack(rows) for rows in logprobs]

    def _pools(self, sequences: int) -> list[list[KVPool]]:
        blocks = 1 + sequences * self._blocks_each
        return [
            [KVPool(rank.kv_layers, blocks, BLOCK_SIZE, rank.dtype, rank.device) for rank in ranks]
            for ranks in self.stages
        ]

    def _rows(self, tokens: list[int], segments: list[tuple[int, int, int]], rank: StageModel) -> RowBatch:
        each = self._blocks_each
        sequences, starts, lengths = (np.array(column, np.int64) for column in zip(*segments, strict=True))
        return RowBatch(
            np.array(tokens, np.int64),
            starts,
            lengths,
            # Backwards, so that a sequence's blocks do not ascend.
            1 + sequences[:, None] * each + np.arange(each)[::-1],
            int((lengths == 1).sum()),
            BLOCK_SIZE,
            rank.dtype,
            rank.device,
        )

    def _step(self, tokens: list[int], segments: list[tuple[int, int, int]], pools: list[list[KVPool]]) -> torch.Tensor:
        """Logits [R, V] after the last row of each segment; a segment is (sequence, start, length)."""
        hidden: list[torch.Tensor | None] = [None]
        for ranks, kept, threads in zip(self.stages, pools, self._threads, strict=True):
            rows = [self._rows(tokens, segments, rank) for rank in ranks]
            given = [hidden[rank % len(hidden)] for rank in range(len(ranks))]
            hidden = list(threads.map(StageModel.forward, ranks, rows, kept, given))
        last = torch.tensor([length for _, _, length in segments]).cumsum(0) - 1
        chosen = [given[last] for given in hidden if given is not None]
        logits = list(self._threads[-1].map(StageModel.logits, self.stages[-1], chosen))
        assert all(torch.equal(logits[0], other) for other in logits)
        return logits[0]
