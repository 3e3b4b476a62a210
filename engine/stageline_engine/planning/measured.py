"""A better split for a pipeline that runs, from how long its stages were busy.

The predicted loads are made to agree with what was measured: one factor for all layers and one for the output head, as
far as these explain it, and what they do not explain is a factor of the stage, since its machine may be slower. So at
the present split the scaled prediction is the measurement, and for other splits it is as good as its proportions.
What a step costs whatever it holds is counted with the layers: where it outweighs them, as in tiny models, a stage with
few layers seems dear, and too little is proposed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import msgspec

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.devices import Device
from stageline_engine.planning.loads import StageLoads
from stageline_engine.planning.memory import MemoryLimit
from stageline_engine.planning.split import best_split, chunk_of
from stageline_engine.planning.workload import Workload

WORTH = 1.01
"""A split that is predicted to give less than this times the throughput is not worth a restart."""


class StageProposal(msgspec.Struct, frozen=True, kw_only=True):
    """One stage; loads are busy seconds ÷ the mean of all stages at the present split."""

    stage: int
    layers: int
    load: float
    """Measured."""
    proposed_layers: int
    predicted_load: float


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about the split."""

    workload: Workload
    layer_split: tuple[int, ...]
    proposed_split: tuple[int, ...]
    """The present one when that is the best."""
    is_best: bool
    """The present split is the best, or as good as that."""
    slowest_stage: int
    gain: float
    """Predicted throughput with the proposed split ÷ that of now, where the slowest stage is always busy."""
    stages: tuple[StageProposal, ...]


def propose(
    profile: ModelProfile,
    config: EngineConfig,
    split: Sequence[int],
    busy: Sequence[float],
    workload: Workload,
    device: Device,
    limit: MemoryLimit,
) -> Proposal:
    """The best split for stages that were busy for so long.

    Args:
        config: with ``dtype`` resolved, and as many stages and ranks as were measured.
        split: layers of each stage, now.
        busy: seconds of each stage, of any time; above 0.
        limit: what a rank may hold.

    Raises:
        ConfigurationError: no split fits ``limit``.
    """
    load = _MeasuredLoads(StageLoads(profile, config, workload, device, chunk_of(config)), split, busy)
    best = best_split(profile, config, limit, load)
    if best is None:
        raise ConfigurationError(limit.flag, limit.value, "no split fits into it: give more --stages, --tp or memory")
    predicted = [load(*part) for part in _parts(best)]
    gain = max(busy) / max(predicted)
    is_best = tuple(split) == best or gain < WORTH
    if is_best:
        best, predicted, gain = tuple(split), list(busy), 1.0
    mean = sum(busy) / len(busy)
    return Proposal(
        workload=workload,
        layer_split=tuple(split),
        proposed_split=best,
        is_best=is_best,
        slowest_stage=max(range(len(busy)), key=busy.__getitem__),
        gain=gain,
        stages=tuple(
            StageProposal(
                stage=stage,
                layers=split[stage],
                load=busy[stage] / mean,
                proposed_layers=best[stage],
                predicted_load=predicted[stage] / mean,
            )
            for stage in range(len(split))
        ),
    )


class _MeasuredLoads:
    """``load(stage, start, end)``, in measured seconds."""

    def __init__(self, loads: StageLoads, split: Sequence[int], busy: Sequence[float]) -> None:
        self._loads = loads
        layers = [loads.layers(*part) for part in _parts(split)]
        head = loads.head(len(split) - 1)
        # Without the last stage, where the head is too: what that has beyond its layers is the head's.
        self._per_layer = _factor(layers[:-1], busy[:-1]) if len(split) > 1 else 0.0
        self._per_head = (busy[-1] - self._per_layer * layers[-1]) / head if head else 0.0
        if self._per_head <= 0 or not self._per_layer:
            self._per_head = self._per_layer = _factor([*layers[:-1], layers[-1] + head], busy)
        self._per_stage = [1.0] * len(split)
        self._per_stage = [seconds / self(*part) for seconds, part in zip(busy, _parts(split), strict=True)]

    def __call__(self, stage: int, start: int, end: int) -> float:
        """See the class."""
        seconds = self._per_layer * self._loads.layers(stage, start, end) + self._per_head * self._loads.head(stage)
        return self._per_stage[stage] * seconds


def _factor(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """What ``predicted`` has to be multiplied by, by least squares of relative errors."""
    ratios = [one / other for one, other in zip(predicted, measured, strict=True)]
    return sum(ratios) / sum(ratio * ratio for ratio in ratios)


def _parts(split: Sequence[int]) -> list[tuple[int, int, int]]:
    """(stage, start, end) of each stage."""
    bounds = itertools.pairwise(itertools.accumulate(split, initial=0))
    return [(stage, start, end) for stage, (start, end) in enumerate(bounds)]
