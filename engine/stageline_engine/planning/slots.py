"""How many micro-batches should be in flight, and what the pipeline then gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile, StageSpec
from stageline_engine.planning.costs import CostModel
from stageline_engine.planning.devices import Device
from stageline_engine.planning.split import device_of
from stageline_engine.planning.workload import DEFAULT_WORKLOAD, Workload

EQUAL_SHARE = 0.97
"""Numbers of micro-batches whose predicted throughput is at least this share of the best count as equal to it."""
HIDDEN_SHARE = 0.05
"""Exposed latency below this share of the slowest stage's time is not worth a micro-batch of its own."""


class DecodeRound(msgspec.Struct, frozen=True, kw_only=True):
    """One round of decode: every running sequence gets one token."""

    micro_batches: int
    rows: float
    """Sequences of each micro-batch."""
    stage_seconds: tuple[float, ...]
    """What each stage works on one micro-batch."""
    seconds: float
    exposed_seconds: float
    """Part of a loop in which no stage works on the micro-batch: hops, feedback, the engine core."""

    @property
    def tokens_per_second(self) -> float:
        """Of all sequences together."""
        return self.micro_batches * self.rows / self.seconds

    @property
    def busy_shares(self) -> tuple[float, ...]:
        """Part of the round that each stage works."""
        return tuple(self.micro_batches * seconds / self.seconds for seconds in self.stage_seconds)

    @property
    def bubble(self) -> float:
        """Part of the round that the stages wait, on average."""
        return 1 - sum(self.busy_shares) / len(self.stage_seconds)


def decode_stage_seconds(
    profile: ModelProfile, specs: Sequence[StageSpec], costs: CostModel, rows: float, context: int
) -> tuple[float, ...]:
    """Seconds of each stage for a micro-batch of ``rows`` sequences."""
    times = []
    for spec in specs:
        seconds = sum(
            costs.decode_layer(layer, spec.tp, rows, context) for layer in profile.layers[spec.start : spec.end]
        )
        times.append(seconds + (costs.head(spec.tp, rows) if spec.is_last else 0.0))
    return tuple(times)


def decode_round(
    sequences: int,
    micro_batches: int,
    stage_seconds: Callable[[float], tuple[float, ...]],
    exposed: Callable[[float], float],
) -> DecodeRound:
    """A round of ``sequences`` in ``micro_batches`` equal micro-batches.

    It lasts as long as the slowest stage works on all of them, or as one of them needs for the whole loop.
    """
    rows = sequences / micro_batches
    times, latency = stage_seconds(rows), exposed(rows)
    return DecodeRound(
        micro_batches=micro_batches,
        rows=rows,
        stage_seconds=times,
        seconds=max(micro_batches * max(times), sum(times) + latency),
        exposed_seconds=latency,
    )


def best_round(
    sequences: int,
    num_stages: int,
    stage_seconds: Callable[[float], tuple[float, ...]],
    exposed: Callable[[float], float],
) -> DecodeRound:
    """The round with the number of micro-batches that gives the most tokens.

    M* = ⌈(Σ t + D) / max t⌉ micro-batches keep the slowest stage busy, for stage times t and exposed latency D. More
    never help; fewer may, since each one reads the weights again. Among equals the one nearest to a micro-batch per
    stage: with fewer nothing overlaps when rows turn out dearer than predicted, with more the fixed costs grow.
    """
    rounds = []
    for count in range(1, min(sequences, 4 * num_stages) + 1):
        candidate = decode_round(sequences, count, stage_seconds, exposed)
        slowest = max(candidate.stage_seconds)
        loop = sum(candidate.stage_seconds) + candidate.exposed_seconds
        if count <= max(1, math.ceil(loop / slowest - HIDDEN_SHARE)):
            rounds.append(candidate)
    best = max(candidate.tokens_per_second for candidate in rounds)
    equals = [candidate for candidate in rounds if candidate.tokens_per_second >= EQUAL_SHARE * best]
    return min(equals, key=lambda candidate: abs(candidate.micro_batches - num_stages))


def best_round_of(
    profile: ModelProfile, specs: Sequence[StageSpec], config: EngineConfig, device: Device, workload: Workload
) -> DecodeRound:
    """The best round for a cut model with ``max_num_seqs`` running sequences; ``micro_batches`` is kept if given."""
    costs = CostModel(profile, device, config.model.dtype)
    sequences = config.scheduler.max_num_seqs

    def stage_seconds(rows: float) -> tuple[float, ...]:
        return decode_stage_seconds(profile, specs, costs, rows, workload.context)

    def exposed(rows: float) -> float:
        return costs.exposed_latency(len(specs), rows)

    if (fixed := config.scheduler.micro_batches) is not None:
        return decode_round(sequences, fixed, stage_seconds, exposed)
    return best_round(sequences, len(specs), stage_seconds, exposed)


def predicted_slots(profile: ModelProfile, specs: Sequence[StageSpec], config: EngineConfig) -> int:
    """Micro-batches that the engine keeps in flight, by the predicted throughput of a full engine."""
    return best_round_of(profile, specs, config, device_of(config), DEFAULT_WORKLOAD).micro_batches
