"""The whole plan as one value: what `stageline plan` prints. Field names are the keys of ``--json``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile, StageSpec
from stageline_engine.planning.costs import CostModel
from stageline_engine.planning.devices import DTYPE_BYTES, Device
from stageline_engine.planning.memory import (
    MemoryLimit,
    blocks_of,
    capacity_tokens,
    kv_bytes_per_token,
    stage_weight_bytes,
)
from stageline_engine.planning.scale import ScaleRow, scale_table
from stageline_engine.planning.slots import DecodeRound, best_round_of
from stageline_engine.planning.split import choose_split, chunk_of, stage_specs
from stageline_engine.planning.workload import Workload


class StagePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline stage; its ranks are alike."""

    stage: int
    start: int
    end: int
    """Its layers are ``[start, end)``."""
    tp: int
    holds: tuple[str, ...]
    """``embedding`` and ``head``, where it has them."""
    weight_bytes_per_rank: int
    kv_bytes_per_token_per_rank: int
    kv_capacity_tokens: int
    decode_seconds: float
    """For one micro-batch."""
    prefill_seconds_per_token: float
    busy_share: float
    """Part of a decode round that it works."""


class KvPlan(msgspec.Struct, frozen=True, kw_only=True):
    """KV capacity of the pipeline: that of its tightest stage."""

    capacity_tokens: int
    blocks: int
    useful_blocks: int
    """What ``max_num_seqs`` sequences of full length need; `serve` allocates no more."""
    sequences_of_full_length: float
    limiting_stage: int


class DecodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Every running sequence gets one token in a round."""

    micro_batches: int
    rows_per_micro_batch: float
    round_seconds: float
    exposed_latency_seconds: float
    tokens_per_second: float
    bubble: float
    bottleneck_stage: int


class PrefillPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts, in chunks that follow each other through the stages."""

    chunk_tokens: int
    tokens_per_second: float
    bubble: float
    bottleneck_stage: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is cut, what each rank needs, and what is predicted."""

    model: str
    architecture: str
    dtype: str
    num_layers: int
    max_model_len: int
    max_num_seqs: int
    block_size: int
    workload: Workload
    device: str
    constants: str
    memory_per_rank_bytes: int
    memory_source: str
    layer_split: tuple[int, ...]
    is_split_given: bool
    stages: tuple[StagePlan, ...]
    kv: KvPlan
    decode: DecodePlan
    prefill: PrefillPlan
    output_tokens_per_second: float
    """Of ``max_num_seqs`` requests of the workload, prefill and decode together."""
    scale: tuple[ScaleRow, ...]


def make_plan(
    name: str, profile: ModelProfile, config: EngineConfig, device: Device, limit: MemoryLimit, workload: Workload
) -> Plan:
    """Plan a model on ranks of one kind.

    Args:
        config: with ``dtype`` resolved.

    Raises:
        ConfigurationError: the cut cannot work, or does not fit; names what is missing.
    """
    split = choose_split(profile, config, workload=workload, device=device, limit=limit)
    specs = stage_specs(profile, config.parallel, split)
    decode = best_round_of(profile, specs, config, device, workload)
    costs = CostModel(profile, device, config.model.dtype)
    prefill = _prefill_seconds_per_token(profile, specs, costs, chunk_of(config), workload)
    capacity = capacity_tokens(profile, specs, config, limit)
    longest = config.model.max_model_len or profile.max_model_len
    tightest = min(range(len(specs)), key=capacity.__getitem__)
    per_request = (
        workload.prompt_tokens * max(prefill) + workload.output_tokens * decode.seconds / config.scheduler.max_num_seqs
    )
    return Plan(
        model=name,
        architecture=profile.architecture,
        dtype=config.model.dtype,
        num_layers=len(profile.layers),
        max_model_len=longest,
        max_num_seqs=config.scheduler.max_num_seqs,
        block_size=config.cache.block_size,
        workload=workload,
        device=device.name,
        constants=device.constants,
        memory_per_rank_bytes=limit.bytes,
        memory_source=limit.source,
        layer_split=split,
        is_split_given=config.parallel.layer_split is not None,
        stages=tuple(
            _stage(profile, spec, config, capacity[spec.stage], decode, prefill[spec.stage]) for spec in specs
        ),
        kv=KvPlan(
            capacity_tokens=capacity[tightest],
            blocks=capacity[tightest] // config.cache.block_size,
            useful_blocks=blocks_of(longest, config.cache.block_size) * config.scheduler.max_num_seqs,
            sequences_of_full_length=capacity[tightest] / longest,
            limiting_stage=tightest,
        ),
        decode=_decode(decode),
        prefill=PrefillPlan(
            chunk_tokens=chunk_of(config),
            tokens_per_second=1 / max(prefill),
            bubble=1 - sum(prefill) / len(prefill) / max(prefill),
            bottleneck_stage=prefill.index(max(prefill)),
        ),
        output_tokens_per_second=workload.output_tokens / per_request,
        scale=tuple(scale_table(profile, config, device, limit, workload)),
    )


def _stage(
    profile: ModelProfile, spec: StageSpec, config: EngineConfig, capacity: int, decode: DecodeRound, prefill: float
) -> StagePlan:
    element = DTYPE_BYTES[config.model.dtype]
    return StagePlan(
        stage=spec.stage,
        start=spec.start,
        end=spec.end,
        tp=spec.tp,
        holds=("embedding",) * spec.is_first + ("head",) * spec.is_last,
        weight_bytes_per_rank=stage_weight_bytes(profile, spec, element),
        kv_bytes_per_token_per_rank=kv_bytes_per_token(profile, spec, element),
        kv_capacity_tokens=capacity,
        decode_seconds=decode.stage_seconds[spec.stage],
        prefill_seconds_per_token=prefill,
        busy_share=decode.busy_shares[spec.stage],
    )


def _decode(decode: DecodeRound) -> DecodePlan:
    return DecodePlan(
        micro_batches=decode.micro_batches,
        rows_per_micro_batch=decode.rows,
        round_seconds=decode.seconds,
        exposed_latency_seconds=decode.exposed_seconds,
        tokens_per_second=decode.tokens_per_second,
        bubble=decode.bubble,
        bottleneck_stage=decode.stage_seconds.index(max(decode.stage_seconds)),
    )


def _prefill_seconds_per_token(
    profile: ModelProfile, specs: Sequence[StageSpec], costs: CostModel, chunk: int, workload: Workload
) -> list[float]:
    seen = max(1, workload.prompt_tokens // 2)
    return [
        sum(costs.prefill_layer(layer, spec.tp, chunk, seen) for layer in profile.layers[spec.start : spec.end]) / chunk
        for spec in specs
    ]
