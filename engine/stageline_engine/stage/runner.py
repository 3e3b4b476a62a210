"""What one rank does with the commands it is given: mirror the scheduler's decisions, run the model, sample.

No processes and no sockets: :mod:`stageline_engine.comm` and the executors carry what goes in and comes out.
For each plan, in this order, on one thread:

    needs_feedback(plan)?  first stage: wait, and take_feedback(result) first
    apply(plan)            books: sequences to forget, block tables
    run(plan, hidden)      hidden states for the next stage, or the last stage's result

Dimensions: T rows of the micro-batch, H hidden size, N segments, R rows to project.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from stageline_engine.cache.pool import KVPool, block_bytes
from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import StaleEpochError, StepGapError
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepResult
from stageline_engine.models.rows import RowBatch, RowLayout
from stageline_engine.models.stage_model import StageModel, load_stage_model
from stageline_engine.models.tensor_group import TensorGroup
from stageline_engine.stage.memory import free_bytes
from stageline_engine.stage.projection import Projection
from stageline_engine.stage.sequences import SequenceStore
from stageline_engine.stage.warmup import warm_up


class StageRunner:
    """One rank of one stage.

    Loading sets the number of CPU threads of the calling thread, so make and use a runner on the same thread.

    Args:
        group: the stage's tensor-parallel ranks; every rank makes the same calls in the same order.

    Raises:
        ModelSourceError, UnsupportedModelError, ConfigurationError: as :func:`load_stage_model`.
    """

    def __init__(self, settings: RankSettings, rank: int, group: TensorGroup, epoch: int) -> None:
        started = time.monotonic()
        if settings.device == "cpu":
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self.spec = settings.spec
        self.rank = rank
        self.model: StageModel = load_stage_model(settings, rank, group)
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)
        self.loaded = RankLoaded(
            stage=self.spec.stage,
            rank=rank,
            weight_bytes=self.model.weight_bytes,
            bytes_read=self.model.bytes_read,
            kv_block_bytes=block_bytes(self.model.kv_layers, settings.block_size, self.model.dtype),
            free_bytes=free_bytes(self.model.device),
            load_seconds=time.monotonic() - started,
        )
        """What the head needs to know in order to choose the number of blocks."""
        self.begin_epoch(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Keep the weights and forget everything else: sequences, KV cache, steps. :meth:`allocate` comes next."""
        self.epoch = epoch
        self._sequences = SequenceStore(self.settings.max_num_seqs)
        self._projection = Projection(self.model, is_sampling=self.rank == 0) if self.spec.is_last else None
        self._pool: KVPool | None = None
        self._step = 0
        self._fed_step = 0

    def allocate(self, num_blocks: int) -> None:
        """Make the KV cache of ``num_blocks``, the scratch block included."""
        self._pool = KVPool(
            self.model.kv_layers, num_blocks, self.settings.block_size, self.model.dtype, self.model.device
        )

    def warm_up(self) -> None:
        """Run the largest decode and prefill shapes once, on the scratch block. All ranks of a stage together."""
        warm_up(self.model, self.pool, self.settings, self._projection)

    @property
    def pool(self) -> KVPool:
        """The KV cache, after :meth:`allocate`."""
        assert self._pool is not None, "allocate() comes first"
        return self._pool

    def admit(self, admission: AdmitSequence) -> None:
        """Take a sequence's tokens and parameters; may come any time before the plan that first gives it blocks.

        Raises:
            StaleEpochError: it belongs to another epoch.
        """
        self._check_epoch(admission.epoch)
        self._sequences.admit(admission)

    def apply(self, plan: StepPlan) -> None:
        """Bring the books up to ``plan``; the run of the plan before it must have ended.

        Raises:
            StaleEpochError: it belongs to another epoch.
            StepGapError: it is not the plan after the last one.
        """
        self._check_epoch(plan.epoch)
        if plan.step != self._step + 1:
            raise StepGapError(plan.step, self._step + 1)
        self._step = plan.step
        for seq in plan.finished:
            self._sequences.forget(seq)
            if self._projection is not None:
                self._projection.forget(seq)
        for seq, blocks in plan.new_blocks:
            admission = self._sequences.append_blocks(seq, blocks, plan.step)
            if admission is not None and self._projection is not None:
                self._projection.begin(admission)

    def needs_feedback(self, plan: StepPlan) -> bool:
        """Whether rows of ``plan`` read tokens that :meth:`take_feedback` has not brought; never on later stages."""
        return self.spec.is_first and plan.feedback_step > self._fed_step

    def take_feedback(self, result: StepResult) -> None:
        """On the first stage: append what the last stage sampled. Every step's result comes here, in order.

        Raises:
            StaleEpochError: it belongs to another epoch.
        """
        self._check_epoch(result.epoch)
        self._fed_step = result.step
        self._sequences.append_sampled(result.tokens, result.step)

    def run(self, plan: StepPlan, hidden_TH: torch.Tensor | None) -> tuple[torch.Tensor | None, StepResult | None]:
        """Run the applied plan. Takes the hidden states of the stage before (None on the first stage).

        Returns (hidden states [T, H], None), on the last stage (None, result), and (None, None) on the last stage's
        other ranks: only rank 0 samples. A stage that is first and last waits for its own result in take_feedback.
        A GPU has ended the step, too (not run on one yet): only then are its time and the health of the stage's other
        ranks known.
        """
        assert plan.step == self._step, "apply(plan) comes first"
        rows = self._rows(plan)
        hidden_TH = self.model.forward(rows, self.pool, hidden_TH)
        result = None if self._projection is None else self._projection.result(plan, hidden_TH)
        if hidden_TH.device.type == "cuda":
            torch.cuda.current_stream(hidden_TH.device).synchronize()
        return (hidden_TH, None) if self._projection is None else (None, result)

    def _rows(self, plan: StepPlan) -> RowBatch:
        segments = plan.segments
        lines_N = self._sequences.lines([segment.seq for segment in segments])
        starts_N = np.fromiter((segment.start for segment in segments), np.int64, len(segments))
        lengths_N = np.fromiter((segment.length for segment in segments), np.int64, len(segments))
        tokens_T = self._sequences.segment_tokens(lines_N, starts_N, lengths_N) if self.spec.is_first else None
        num_decode = 0
        while num_decode < len(segments) and segments[num_decode].length == 1 and segments[num_decode].samples:
            num_decode += 1
        tables_NC = self._sequences.tables(lines_N)
        return RowBatch(RowLayout.of(self.pool), tokens_T, starts_N, lengths_N, tables_NC, num_decode)

    def _check_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            raise StaleEpochError(epoch, self.epoch)
