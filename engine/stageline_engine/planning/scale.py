"""What more ranks do to memory: KV grows by more than the number of ranks, because weights shrink per rank."""

from __future__ import annotations

import msgspec

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.devices import Device
from stageline_engine.planning.memory import MemoryLimit, capacity_tokens
from stageline_engine.planning.split import choose_split, stage_specs
from stageline_engine.planning.workload import Workload

SIZES = (1, 2, 4)


class ScaleRow(msgspec.Struct, frozen=True, kw_only=True):
    """One number of ranks."""

    stages: int
    tp: int
    layer_split: tuple[int, ...] | None
    kv_blocks: int | None
    """None, like the rest, when it cannot work; ``note`` then says why."""
    kv_tokens: int | None
    rank_growth: float | None
    """Ranks, relative to the fewest of the same kind that can hold the model."""
    kv_growth: float | None
    """KV tokens, likewise. Above ``rank_growth``: more than linear."""
    note: str = ""


def scale_table(
    profile: ModelProfile, config: EngineConfig, device: Device, limit: MemoryLimit, workload: Workload
) -> list[ScaleRow]:
    """1, 2 and 4 ranks, as stages and as tensor-parallel ranks, each with the memory of ``limit``."""

    def row(stages: int, tp: int, first: ScaleRow | None) -> ScaleRow:
        return _row(profile, _with_cut(config, stages, tp), device, limit, workload, first)

    one = row(1, 1, None)
    rows = [one]
    for cuts in ([(size, 1) for size in SIZES[1:]], [(1, size) for size in SIZES[1:]]):
        first = one if one.kv_tokens else None
        for stages, tp in cuts:
            rows.append(row(stages, tp, first))
            if first is None and rows[-1].kv_tokens:
                first = rows[-1]
    return rows


def _row(
    profile: ModelProfile,
    config: EngineConfig,
    device: Device,
    limit: MemoryLimit,
    workload: Workload,
    first: ScaleRow | None,
) -> ScaleRow:
    stages, tp = config.parallel.stages, config.parallel.tp[0]
    try:
        split = choose_split(profile, config, workload=workload, device=device, limit=limit)
    except ConfigurationError as error:
        return ScaleRow(
            stages=stages, tp=tp, layer_split=None, kv_blocks=None, kv_tokens=None, rank_growth=None, kv_growth=None,
            note=_why_not(profile, error),
        )  # fmt: skip
    tokens = min(capacity_tokens(profile, stage_specs(profile, config.parallel, split), config, limit))
    base_tokens, base_ranks = (first.kv_tokens or tokens, first.stages * first.tp) if first else (tokens, stages * tp)
    return ScaleRow(
        stages=stages,
        tp=tp,
        layer_split=split,
        kv_blocks=tokens // config.cache.block_size,
        kv_tokens=tokens,
        rank_growth=stages * tp / base_ranks,
        kv_growth=tokens / base_tokens if base_tokens else None,
    )


def _why_not(profile: ModelProfile, error: ConfigurationError) -> str:
    if error.field == "--tp":
        return f"TP may be {', '.join(map(str, profile.possible_tp))}"
    if error.field == "--stages":
        return f"the model has {len(profile.layers)} layers"
    return "weights and one sequence do not fit"


def _with_cut(config: EngineConfig, stages: int, tp: int) -> EngineConfig:
    parallel = msgspec.structs.replace(config.parallel, stages=stages, tp=(tp,), layer_split=None)
    return msgspec.structs.replace(config, parallel=parallel)
