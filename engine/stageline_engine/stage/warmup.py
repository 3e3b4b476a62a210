"""Running a stage's model before anybody waits for it, so that kernels are compiled and buffers exist.

Everything is written to the scratch block. Makes no use of the boundary to other stages.
"""

from __future__ import annotations

import numpy as np
import torch

from stageline_engine.cache.pool import KVPool
from stageline_engine.core.blocks import SCRATCH_BLOCK
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.messages import AdmitSequence, Segment, StepPlan
from stageline_engine.core.request import SamplingParams
from stageline_engine.models.rows import RowBatch, RowLayout
from stageline_engine.models.stage_model import StageModel
from stageline_engine.stage.projection import Projection


def warm_up(model: StageModel, pool: KVPool, settings: RankSettings, projection: Projection | None) -> None:
    """Run one decode row, as many as there may be, and the longest prefill."""
    budget = settings.max_num_batched_tokens
    for num_decode in sorted({1, min(settings.max_num_seqs, budget)}):
        _run(model, pool, projection, [Segment(-1, 0, 1, True)] * num_decode, num_decode)
    length = min(budget, settings.max_model_len)
    if length > 1:
        _run(model, pool, projection, [Segment(-1, 0, length, True)], 0)


def _run(
    model: StageModel, pool: KVPool, projection: Projection | None, segments: list[Segment], num_decode: int
) -> None:
    lengths_N = np.array([segment.length for segment in segments], np.int64)
    num_rows = int(lengths_N.sum())
    num_blocks = -(-int(lengths_N.max()) // pool.block_size)
    tables_NC = np.full((len(segments), num_blocks), SCRATCH_BLOCK, np.int64)
    starts_N, tokens_T = np.zeros(len(segments), np.int64), np.zeros(num_rows, np.int64)
    rows = RowBatch(RowLayout.of(pool), tokens_T, starts_N, lengths_N, tables_NC, num_decode)
    hidden_TH = None
    if not model.spec.is_first:
        hidden_TH = torch.zeros(num_rows, model.hidden_size, dtype=model.dtype, device=model.device)
    hidden_TH = model.forward(rows, pool, hidden_TH)
    if projection is not None:
        projection.begin(AdmitSequence(0, -1, [0], 1, SamplingParams(temperature=0.0), 0, ()))
        projection.result(StepPlan(0, 0, 0, segments, [], [], 0), hidden_TH)
        projection.forget(-1)
