"""Layers per stage: given by the person, or balanced by predicted time under the memory of the ranks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from stageline_engine.core.config import EngineConfig, ParallelConfig
from stageline_engine.core.deployment import ModelProfile, StageSpec
from stageline_engine.planning.devices import DTYPE_BYTES, Device, cpu, gpu
from stageline_engine.planning.feasibility import check_cut
from stageline_engine.planning.loads import StageLoads
from stageline_engine.planning.memory import MemoryLimit, check_memory, least_kv_bytes, stage_weight_bytes
from stageline_engine.planning.partition import best_partition
from stageline_engine.planning.workload import DEFAULT_WORKLOAD, Workload

CPU_CHUNK = 256
"""Default rows of a micro-batch of a pipeline on a CPU: several chunks of a prompt are under way at once, and a step of
a 135M model stays under about 500 ms on one core."""
CPU_CHUNK_ALONE = 1024
"""The same with one stage, which has no others to keep busy: most prompts stay whole, so attention has no earlier
chunk to gather. A third more throughput on prompts of 512 than with 256."""
GPU_CHUNK = 2048
ASSUMED_GPU = "H100"
"""For the proportions between layers when a cuda device is not named."""


def choose_split(
    profile: ModelProfile,
    config: EngineConfig,
    *,
    workload: Workload = DEFAULT_WORKLOAD,
    device: Device | None = None,
    limit: MemoryLimit | None = None,
) -> tuple[int, ...]:
    """Layers per stage: ``config.parallel.layer_split`` if given, else the split with the least predicted time.

    Args:
        config: with ``dtype`` resolved; ``device`` and ``threads`` resolved unless ``device`` is given here.
        limit: what a rank may hold; None: not checked here, ranks find out when they load. One that is a part of the
            machine does not decide where layers go, since all ranks draw on the same memory.

    Raises:
        ConfigurationError: the cut cannot work, or no split fits ``limit``; names what is missing.
    """
    check_cut(profile, config.parallel)
    if config.parallel.layer_split is not None:
        split = config.parallel.layer_split
    else:
        device = device or device_of(config)
        # Without a split that fits, the best one of those that do not serves to say what is missing.
        found = _balanced(profile, config, workload, device, limit) or _balanced(
            profile, config, workload, device, None
        )
        assert found is not None
        split = found
    if limit is not None:
        check_memory(profile, stage_specs(profile, config.parallel, split), config, limit)
    return split


def stage_specs(profile: ModelProfile, parallel: ParallelConfig, split: Sequence[int]) -> list[StageSpec]:
    """The part of the model that each stage runs.

    Raises:
        ConfigurationError: the split does not give every layer to a stage.
    """
    check_cut(profile, ParallelConfig(stages=parallel.stages, tp=parallel.tp, layer_split=tuple(split)))
    bounds = list(itertools.accumulate(split, initial=0))
    return [
        StageSpec(stage=stage, num_stages=len(split), start=start, end=end, tp=parallel.tp_of(stage))
        for stage, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


def device_of(config: EngineConfig) -> Device:
    """The constants that fit a config without a named device."""
    if config.parallel.device == "cuda":
        return gpu(ASSUMED_GPU)
    return cpu(config.parallel.threads or 1)


def chunk_of(config: EngineConfig) -> int:
    """Most rows of a micro-batch, which is what a prefill step has. ``device`` is resolved."""
    if config.scheduler.max_num_batched_tokens is not None:
        return config.scheduler.max_num_batched_tokens
    if config.parallel.device == "cuda":
        return GPU_CHUNK
    return CPU_CHUNK_ALONE if config.parallel.stages == 1 else CPU_CHUNK


def best_split(
    profile: ModelProfile,
    config: EngineConfig,
    limit: MemoryLimit | None,
    load: Callable[[int, int, int], float],
) -> tuple[int, ...] | None:
    """The split whose busiest stage has the least load; None when none fits ``limit``.

    Args:
        load: ``load(stage, start, end)`` of giving the layers ``[start, end)`` to ``stage``.
    """
    parallel = config.parallel

    def cost(stage: int, start: int, end: int) -> float | None:
        if limit is not None and not limit.is_shared:
            tp = parallel.tp_of(stage)
            spec = StageSpec(stage=stage, num_stages=parallel.stages, start=start, end=end, tp=tp)
            weights = stage_weight_bytes(profile, spec, DTYPE_BYTES[config.model.dtype])
            if least_kv_bytes(profile, spec, config) > limit.kv_bytes(weights):
                return None
        return _rounded(load(stage, start, end))

    return best_partition(len(profile.layers), parallel.stages, cost)


def _balanced(
    profile: ModelProfile, config: EngineConfig, workload: Workload, device: Device, limit: MemoryLimit | None
) -> tuple[int, ...] | None:
    loads = StageLoads(profile, config, workload, device, chunk_of(config))

    def load(stage: int, start: int, end: int) -> float:
        return loads.layers(stage, start, end) + loads.head(stage)

    return best_split(profile, config, limit, load)


def _rounded(seconds: float) -> float:
    """Without the noise of floating-point sums, so that equal ranges cost the same."""
    return float(f"{seconds:.9g}")
