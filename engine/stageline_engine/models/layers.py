"""What a decoder layer keeps: which attention, which window, how many KV heads on a rank."""

from __future__ import annotations

from transformers import PreTrainedConfig

from stageline_engine.cache.pool import KVLayer
from stageline_engine.core.deployment import StageSpec
from stageline_engine.models.architecture import Skeleton
from stageline_engine.models.tensor_parallel import TensorPlan


def sliding_windows(config: PreTrainedConfig) -> list[int | None]:
    """Positions that a row looks back in each layer of the whole model; None: all.

    Families with ``layer_types`` slide in some layers, the others in all or none.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [int(window) if window and kind == "sliding_attention" else None for kind in kinds]


def kv_heads_on_rank(plan: TensorPlan, size: int) -> int:
    """KV heads that each of ``size`` ranks holds."""
    return max(1, plan.heads.kv // size) if plan.kv_sharded else plan.heads.kv


def kv_layers(skeleton: Skeleton, plan: TensorPlan, spec: StageSpec, size: int) -> list[KVLayer]:
    """The layers of a stage, with global indices, as the KV cache needs to know them."""
    windows = sliding_windows(skeleton.config)
    heads = kv_heads_on_rank(plan, size)
    return [
        KVLayer(layer_idx=index, kv_heads=heads, head_dim=plan.heads.head_dim, sliding_window=windows[index])
        for index in range(spec.start, spec.end)
    ]
