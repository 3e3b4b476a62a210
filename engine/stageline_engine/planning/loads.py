"""What a stage has to do for one request of a workload: predicted seconds of its layers, and of the output head."""

from __future__ import annotations

import itertools

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.planning.costs import CostModel
from stageline_engine.planning.devices import Device
from stageline_engine.planning.workload import Workload


class StageLoads:
    """Seconds of one rank of a stage, for all rows of one request.

    Args:
        config: with ``dtype`` resolved.
        chunk: rows of a prefill step.
    """

    def __init__(
        self, profile: ModelProfile, config: EngineConfig, workload: Workload, device: Device, chunk: int
    ) -> None:
        self._parallel = config.parallel
        self._workload = workload
        self._costs = CostModel(profile, device, config.model.dtype)
        self._rows = max(1, config.scheduler.max_num_seqs // config.parallel.stages)
        seen = max(1, workload.prompt_tokens // 2)
        self._sums: dict[int, tuple[list[float], list[float]]] = {}
        for tp in {config.parallel.tp_of(stage) for stage in range(config.parallel.stages)}:
            decode = [self._costs.decode_layer(layer, tp, self._rows, workload.context) for layer in profile.layers]
            prefill = [self._costs.prefill_layer(layer, tp, chunk, seen) for layer in profile.layers]
            self._sums[tp] = (
                list(itertools.accumulate((seconds / self._rows for seconds in decode), initial=0.0)),
                list(itertools.accumulate((seconds / chunk for seconds in prefill), initial=0.0)),
            )

    def layers(self, stage: int, start: int, end: int) -> float:
        """Of the layers ``[start, end)``, on ``stage``."""
        decode, prefill = self._sums[self._parallel.tp_of(stage)]
        # Requests come and go, so both kinds of work are in the pipeline at once: a stage's sum of them counts.
        return self._workload.output_tokens * (decode[end] - decode[start]) + self._workload.prompt_tokens * (
            prefill[end] - prefill[start]
        )

    def head(self, stage: int) -> float:
        """Of final norm, projection and sampling; 0 but on the last stage."""
        if stage != self._parallel.stages - 1:
            return 0.0
        return self._workload.output_tokens * self._costs.head(self._parallel.tp_of(stage), self._rows) / self._rows
