"""The tensors behind the block ids: keys and values of one rank's layers, in blocks. Knows nothing of sequences.

Block 0 is scratch: the allocator never gives it away, padding rows may read and write it.

Dimensions: N KV heads of this rank, B blocks of the pool, P positions of a block, D head size, T rows, L gathered
positions. "2N" is the keys of all heads, then the values of all heads.

    layer    [2N, B, P·D]     decode attention reads it in place, as lines of D elements; where that is not possible,
                              one gather along B fetches keys and values of a whole batch of block tables, in runs
                              of P·D contiguous elements, in the order that attention multiplies them
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class KVLayer(NamedTuple):
    """A decoder layer that keeps keys and values on this rank."""

    layer_idx: int
    """Index in the whole model."""
    kv_heads: int
    """Heads that this rank holds."""
    head_dim: int
    sliding_window: int | None
    """Positions that a row looks back, its own included; None: all."""


def block_bytes(kv_layers: Sequence[KVLayer], block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one KV block over all layers of a rank."""
    elements = sum(2 * layer.kv_heads * layer.head_dim for layer in kv_layers)
    return elements * block_size * dtype.itemsize


class KVPool:
    """KV cache of one rank.

    Memory of a CPU pool becomes resident only where blocks are written. Contents start as zeros, because attention
    multiplies masked positions by zero, which must not meet NaN.

    Args:
        num_blocks: the scratch block included.
        block_size: positions of a block.
    """

    def __init__(
        self,
        kv_layers: Sequence[KVLayer],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.device = device
        self.kv_layers = {layer.layer_idx: layer for layer in kv_layers}
        self._blocks = {
            layer.layer_idx: _zeros((2 * layer.kv_heads, num_blocks, block_size * layer.head_dim), dtype, device)
            for layer in kv_layers
        }
        self._places = {
            layer.layer_idx: self._blocks[layer.layer_idx].view(
                2 * layer.kv_heads, num_blocks * block_size, layer.head_dim
            )
            for layer in kv_layers
        }

        self._gathered = torch.empty(0, dtype=dtype, device=device)

    def window_of(self, layer_idx: int) -> int | None:
        """Sliding window of a layer."""
        return self.kv_layers[layer_idx].sliding_window

    @property
    def layer_block_bytes(self) -> int:
        """Bytes of one block of the largest layer."""
        return max(blocks[:, 0].nbytes for blocks in self._blocks.values())

    def write(self, layer_idx: int, keys_NTD: torch.Tensor, values_NTD: torch.Tensor, places_T: torch.Tensor) -> None:
        """Store rows; place = block id · block size + offset. int64 places, all different but for scratch ones."""
        self._places[layer_idx].index_copy_(1, places_T, torch.cat((keys_NTD, values_NTD)))

    def gather(self, layer_idx: int, blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy blocks out: for int64 ids of shape [..., C] the keys and the values, each [N, ..., C · P, D].

        They are valid until the next call: its copy goes to the same memory, because fresh pages for some megabytes
        cost more than the copy.
        """
        heads, dim = self.kv_layers[layer_idx].kv_heads, self.kv_layers[layer_idx].head_dim
        pool_2NBP = self._blocks[layer_idx]
        elements = pool_2NBP.shape[0] * blocks.numel() * pool_2NBP.shape[2]
        if self._gathered.numel() < elements:
            self._gathered = pool_2NBP.new_empty(elements)
        copy = self._gathered[:elements].view(pool_2NBP.shape[0], blocks.numel(), pool_2NBP.shape[2])
        torch.index_select(pool_2NBP, 1, blocks.reshape(-1), out=copy)
        *rows, count = blocks.shape
        both = copy.view(2, heads, *rows, count * self.block_size, dim)
        return both[0], both[1]

    @property
    def is_readable_in_place(self) -> bool:
        """Whether torch has the operations that read :meth:`lines` by index: float32 on a CPU."""
        return self.device.type == "cpu" and self.dtype == torch.float32

    def lines(self, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's keys and its values as they lie, each [N · B · P, D]: one head after the other, then by place."""
        places_2NSD = self._places[layer_idx]
        keys_NSD, values_NSD = places_2NSD.chunk(2)
        return keys_NSD.flatten(0, 1), values_NSD.flatten(0, 1)

    @property
    def num_bytes(self) -> int:
        """Bytes of all blocks."""
        return sum(blocks.nbytes for blocks in self._blocks.values())


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that a CPU's memory holds only where they have been written to.

    numpy asks the system for zeroed pages; torch.zeros writes every one: 14 s and all of the memory for a few GB.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
