"""Values that go into and come out of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from stageline_engine.core.messages import AdmitSequence, StepPlan
from stageline_engine.core.sequence import Sequence


@dataclass(frozen=True, kw_only=True)
class SchedulerLimits:
    """Resolved limits: nothing here is None or ``auto``."""

    max_num_seqs: int
    """Sequences that run at the same time, over all slots."""
    max_num_batched_tokens: int
    """Rows of one micro-batch."""
    max_model_len: int
    """Longest sequence, prompt and output together."""
    slots: int
    """M, micro-batches in flight."""
    max_waiting: int
    """Sequences that may wait for admission."""


class ScheduledStep(NamedTuple):
    """What goes to the ranks: admissions first, then the plan."""

    admissions: list[AdmitSequence]
    plan: StepPlan
    admitted: list[Sequence]
    """Those of ``admissions``, for who keeps books of them."""


@dataclass(slots=True)
class StepRecord:
    """What the scheduler must remember of a plan until its result is back."""

    step: int
    slot: int
    planned_at: float
    predicted_seconds: float
    """From being sent to being back, steps before it included."""
    slowest_seconds: float
    """Of its slowest stage."""
    closing: list[Sequence] = field(default_factory=list)
    """Sequences that end with this step without sampling (prompt logprobs only)."""


PROBE_PREFIX = "stageline-probe-"
"""Request ids of the engine's own heartbeat tokens; a client's id never starts so."""


@dataclass(frozen=True, kw_only=True)
class SchedulerStats:
    """State at one moment; counters run since the scheduler was made."""

    epoch: int
    num_running: int
    """Without heartbeats, as ``num_waiting``."""
    num_waiting: int
    num_blocks: int
    """Without the scratch block."""
    num_free_blocks: int
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    steps: int
    """Steps planned, over all epochs."""
    slots: int
    steps_in_flight: int
    slots_in_flight: int
    """Different slots among the steps in flight."""
    imbalance: float
    """(longest − mean) / mean predicted time of the slots' last micro-batches."""
    oldest_planned_at: float | None
    """The ``now`` with which the oldest step in flight was planned; None: none is in flight."""
    oldest_predicted_seconds: float
    """Its predicted time from then until its result; 0 when none is in flight."""
