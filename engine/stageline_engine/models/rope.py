"""Rotary frequencies that must not depend on what else is in a batch."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from stageline_engine.core.errors import UnsupportedModelError


def fix_longrope(base: nn.Module, max_model_len: int) -> None:
    """Choose longrope's short or long factors once, by the longest sequence that may come.

    The model itself chooses by the longest position of each batch, so one long sequence would change its neighbours,
    and a sequence's own keys would be of two kinds once it grows past the limit.

    Raises:
        UnsupportedModelError: longrope differs between layer types, which no verified family has.
    """
    # Rotary modules of all families are alike, but have no common class.
    rotary: Any
    for rotary in base.modules():
        rope_type = getattr(rotary, "rope_type", None)
        if isinstance(rope_type, dict) and "longrope" in rope_type.values():
            raise UnsupportedModelError("rope_type", rope_type, "longrope that differs between layers cannot be fixed")
        if rope_type != "longrope":
            continue
        inv_freq, scaling = ROPE_INIT_FUNCTIONS["longrope"](
            rotary.config, rotary.inv_freq.device, seq_len=max_model_len
        )
        rotary.inv_freq.copy_(inv_freq)
        rotary.original_inv_freq.copy_(inv_freq)
        rotary.attention_scaling = scaling
        # The forward recomputes for "longrope" and "dynamic" only.
        rotary.rope_type = "default"
