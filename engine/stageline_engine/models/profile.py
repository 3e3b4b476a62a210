"""What planning must know of a model, computed from its config on the meta device: no weights are read."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from stageline_engine.core.deployment import LayerProfile, ModelProfile
from stageline_engine.models.architecture import Skeleton, build_skeleton
from stageline_engine.models.layers import sliding_windows
from stageline_engine.models.tensor_parallel import TensorPlan


def build_profile(model_folder: str | Path, allow_unverified: bool) -> ModelProfile:
    """Describe the model of a canonical folder.

    Raises:
        ModelSourceError: config.json is missing or damaged.
        UnsupportedModelError: no parity test covers the architecture, or it cannot be cut into stages.
    """
    skeleton = build_skeleton(model_folder, allow_unverified)
    config, base = skeleton.config, skeleton.base
    plan = TensorPlan(skeleton)
    embedding, head = skeleton.causal.get_input_embeddings(), skeleton.causal.get_output_embeddings()
    windows = sliding_windows(config)
    return ModelProfile(
        architecture=skeleton.architecture,
        layers=tuple(_layer(skeleton, plan, index, window) for index, window in enumerate(windows)),
        hidden_size=int(config.hidden_size),
        vocab_size=int(config.vocab_size),
        attention_heads=plan.heads.attention,
        max_model_len=int(config.max_position_embeddings),
        embedding_params=_count(embedding),
        head_params=sum(_count(getattr(base, norm)) for norm in skeleton.norms) + _count(head),
        tied_embeddings=bool(getattr(config, "tie_word_embeddings", False)),
        possible_tp=plan.possible_sizes(),
        checkpoint_dtype=str(config.dtype or "float32").removeprefix("torch."),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _layer(skeleton: Skeleton, plan: TensorPlan, index: int, window: int | None) -> LayerProfile:
    prefix = f"{skeleton.base_prefix}.layers.{index}"
    sharded = replicated = active = 0
    for name, parameter in skeleton.layers[index].named_parameters():
        count = parameter.numel()
        if plan.cut(f"{prefix}.{name}", parameter.shape, 0, 2) is None:
            replicated += count
        else:
            sharded += count
        if parameter.ndim == 3 and re.search(r"(^|\.)experts\.", name):
            active += count * int(skeleton.config.num_experts_per_tok) // parameter.shape[0]
        elif parameter.ndim >= 2:
            active += count
    return LayerProfile(
        sharded_params=sharded,
        replicated_params=replicated,
        active_params=active,
        kv_heads=plan.heads.kv,
        head_dim=plan.heads.head_dim,
        kv_sharded=plan.kv_sharded,
        sliding_window=window,
    )
