"""Predicted seconds of layers and of the output head.

The model: a matrix is either limited by reading its weights once or by its arithmetic, whichever takes longer; decode
rows read their KV; each layer has a fixed time; tensor-parallel ranks join twice a layer. Times add up over a stage.
"""

from __future__ import annotations

import functools

from stageline_engine.core.deployment import LayerProfile, ModelProfile
from stageline_engine.planning.devices import DTYPE_BYTES, Device

SAMPLING_BYTES_PER_LOGIT = 16
"""What sampling reads and writes for each entry of the vocabulary, over all of its passes."""


class CostModel:
    """Costs of one model on one kind of rank. All results are seconds of one rank; ranks of a stage work together."""

    def __init__(self, profile: ModelProfile, device: Device, dtype: str) -> None:
        self._profile = profile
        self._device = device
        self._element = DTYPE_BYTES[dtype]
        self._flops = device.flops[dtype]
        self._kv_passes = device.kv_passes[dtype]
        self._layer = functools.cache(self._layer_uncached)

    def decode_layer(self, layer: LayerProfile, tp: int, rows: float, context: int) -> float:
        """One layer for a micro-batch of ``rows`` sequences that hold ``context`` tokens each."""
        seen = min(context, layer.sliding_window or context)
        moved = self._kv_passes * rows * seen * kv_elements(layer, tp) * self._element
        return self._layer(layer, tp, rows) + moved / self._device.bytes_per_second

    def prefill_layer(self, layer: LayerProfile, tp: int, chunk: int, context: int) -> float:
        """One layer for a chunk of ``chunk`` prompt rows that see ``context`` tokens each on average."""
        seen = min(context, layer.sliding_window or context)
        heads = self._profile.attention_heads / tp
        return self._layer(layer, tp, chunk) + 4 * heads * layer.head_dim * seen * chunk / self._flops

    def head(self, tp: int, rows: float) -> float:
        """Final norm, projection and sampling of ``rows`` rows."""
        logits = rows * self._profile.vocab_size * SAMPLING_BYTES_PER_LOGIT / self._device.bytes_per_second
        gather = self._collective(rows * self._profile.vocab_size, tp) if tp > 1 else 0.0
        return self._matrices(self._profile.head_params / tp, self._profile.head_params / tp, rows) + logits + gather

    def exposed_latency(self, stages: int, rows: float) -> float:
        """Seconds of a loop through all stages in which no stage works: hops, feedback, the engine core."""
        if stages == 1:
            return self._device.host_seconds
        hop = self._device.hop_seconds + rows * self._profile.hidden_size * self._element / (
            self._device.hop_bytes_per_second
        )
        return (stages - 1) * hop + self._device.hop_seconds + self._device.host_seconds

    def _layer_uncached(self, layer: LayerProfile, tp: int, rows: float) -> float:
        whole = layer.sharded_params + layer.replicated_params
        share = (layer.sharded_params / tp + layer.replicated_params) / whole if whole else 0.0
        # Of a mixture of experts a step reads only the experts that its rows choose.
        read = min(whole, layer.active_params * rows) * share
        seconds = self._matrices(read, layer.active_params * share, rows) + self._device.layer_seconds
        if tp > 1:
            seconds += 2 * self._collective(rows * self._profile.hidden_size, tp)
        return seconds

    def _matrices(self, read: float, multiplied: float, rows: float) -> float:
        return max(read * self._element / self._device.bytes_per_second, 2 * multiplied * rows / self._flops)

    def _collective(self, elements: float, tp: int) -> float:
        moved = elements * self._element * 2 * (tp - 1) / tp
        return self._device.collective_seconds + moved / self._device.collective_bytes_per_second


def kv_elements(layer: LayerProfile, tp: int) -> int:
    """Elements of K and V that one rank keeps of one token in one layer."""
    heads = max(1, -(-layer.kv_heads // tp)) if layer.kv_sharded and layer.kv_heads else layer.kv_heads
    return 2 * heads * layer.head_dim
