"""Attention over the paged KV cache, under the name by which transformers' models find it.

A model's attention module calls :func:`paged_attention` with the packed rows of a micro-batch; RowBatch and KVPool
come to it as keyword arguments through the model's own forward. Groups of decode rows are attended in
:mod:`decode_attention`; each prefill segment takes one gather of keys and values and one batched attention, on any
device. It has been run on CPUs only.

Dimensions: T rows, Q attention heads, N KV heads, G = Q / N heads that share one KV head, D head size, L positions
looked at.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from stageline_engine.cache.pool import KVPool
from stageline_engine.core.errors import UnsupportedModelError
from stageline_engine.models.decode_attention import attend, attend_decode
from stageline_engine.models.rows import RowBatch

NAME = "stageline"
"""Value of ``config._attn_implementation``."""

_WITHOUT_EFFECT = frozenset(
    (
        "cache_position",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "past_key_values",
        "position_embeddings",
        "position_ids",
        "return_dict",
        "sliding_window",
        "use_cache",
    )
)
"""Keyword arguments of transformers' layers that change nothing here. Windows are taken from the pool's layers,
since some families (Gemma 3) give one only to some layers and others (Mistral) to all."""


def paged_attention(
    module: nn.Module,
    query_1QTD: torch.Tensor,
    key_1NTD: torch.Tensor,
    value_1NTD: torch.Tensor,
    attention_mask: None,
    *,
    rows: RowBatch,
    pool: KVPool,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **unknown: object,
) -> tuple[torch.Tensor, None]:
    """Store the rows' keys and values, and attend. Returns [1, T, Q, D].

    Raises:
        UnsupportedModelError: the model asks for something that would change the result and is not done here.
    """
    layer_idx: int = module.layer_idx  # type: ignore[assignment]
    _refuse_unknown(module, attention_mask, dropout, unknown)
    query_QTD, key_NTD, value_NTD = query_1QTD[0], key_1NTD[0], value_1NTD[0]
    heads, num_rows, dim = query_QTD.shape
    kv_heads = key_NTD.shape[0]
    scale = dim**-0.5 if scaling is None else scaling
    pool.write(layer_idx, key_NTD, value_NTD, rows.places_T)
    query_TNGD = query_QTD.transpose(0, 1).view(num_rows, kv_heads, heads // kv_heads, dim)
    output_TNGD = query_QTD.new_empty(num_rows, kv_heads, heads // kv_heads, dim)
    window = pool.window_of(layer_idx)

    for decode in rows.decode_groups(window):
        output_TNGD[decode.rows] = attend_decode(query_TNGD[decode.rows], pool, layer_idx, decode, scale, softcap)

    for prefill in rows.prefill_groups(window):
        if prefill.blocks_C is None:
            keys_NLD, values_NLD = key_NTD[:, prefill.rows], value_NTD[:, prefill.rows]
        else:
            keys_NLD, values_NLD = pool.gather(layer_idx, prefill.blocks_C)
        attended_NGTD = _attend_many(
            query_TNGD[prefill.rows].permute(1, 2, 0, 3), keys_NLD, values_NLD, prefill.mask_TL, scale, softcap
        )
        output_TNGD[prefill.rows] = attended_NGTD.permute(2, 0, 1, 3)
    return output_TNGD.view(1, num_rows, heads, dim), None


def _attend_many(
    query_NGTD: torch.Tensor,
    keys_NLD: torch.Tensor,
    values_NLD: torch.Tensor,
    mask_TL: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of a segment's rows; without a mask they look at themselves and those before."""
    keys_N1LD, values_N1LD = keys_NLD.unsqueeze(1), values_NLD.unsqueeze(1)
    if softcap is not None:
        if mask_TL is None:
            size = (query_NGTD.shape[2], keys_NLD.shape[1])
            mask_TL = torch.full(size, float("-inf"), dtype=query_NGTD.dtype, device=query_NGTD.device).triu(1)
        return attend(query_NGTD, keys_N1LD, values_N1LD, mask_TL, scale, softcap)
    group = query_NGTD.shape[1]
    return functional.scaled_dot_product_attention(
        query_NGTD,
        keys_N1LD.expand(-1, group, -1, -1),
        values_N1LD.expand(-1, group, -1, -1),
        attn_mask=mask_TL,
        is_causal=mask_TL is None,
        scale=scale,
    )


def _refuse_unknown(module: nn.Module, attention_mask: object, dropout: float, unknown: dict[str, object]) -> None:
    asked = {name: value for name, value in unknown.items() if value is not None and name not in _WITHOUT_EFFECT}
    if attention_mask is not None:
        asked["attention_mask"] = "a tensor"
    if dropout:
        asked["dropout"] = dropout
    if asked:
        raise UnsupportedModelError(
            "architecture",
            type(module).__name__,
            f"its attention asks for {', '.join(sorted(asked))}, which paged attention does not do",
        )


def _no_mask(*_: object, **__: object) -> None:
    """Masks follow from the rows, so models need not make any."""


AttentionInterface.register(NAME, paged_attention)
AttentionMaskInterface.register(NAME, _no_mask)
