"""The rows of one micro-batch as tensors: what a stage's model and its attention read. Made once per step.

Decode rows come first, one for each sequence; then prefill segments, each the consecutive rows of one sequence.
Masks and block indices are made once for each different sliding window, not for each layer.

Dimensions: N segments, T rows, S sequences of a decode group, C blocks, L = C · block size positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from stageline_engine.cache.pool import KVPool
from stageline_engine.core.blocks import SCRATCH_BLOCK
from stageline_engine.models.buckets import GroupCosts, group_costs, split_by_length
from stageline_engine.models.read_pattern import ReadPattern

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class DecodeGroup:
    """Decode rows of similar context length, attended in one operation."""

    rows: slice | torch.Tensor
    """Which rows of the micro-batch; int64 indices when there is more than one group."""
    blocks_SC: torch.Tensor
    """Blocks that hold what each row looks at, padded with the scratch block; int64."""
    mask_S1L: torch.Tensor
    """0 where a row looks, −inf elsewhere; in the model's dtype."""
    _patterns: dict[tuple[int, int], ReadPattern] = field(default_factory=dict)

    def read_pattern(self, block_size: int, kv_heads: int, shared: int, pool_positions: int) -> ReadPattern:
        """The same blocks as lines of a layer with ``kv_heads``, each for ``shared`` attention heads. Made once."""
        key = kv_heads, shared
        if key not in self._patterns:
            self._patterns[key] = ReadPattern(self.blocks_SC, block_size, kv_heads, shared, pool_positions)
        return self._patterns[key]


@dataclass(frozen=True)
class PrefillGroup:
    """The rows of one prefill segment."""

    rows: slice
    blocks_C: torch.Tensor | None
    """Blocks that hold what the rows look at; None: they look only at each other. int64."""
    mask_TL: torch.Tensor | None
    """0 where a row looks, −inf elsewhere, in the model's dtype; None: causal among themselves."""


@dataclass(frozen=True)
class RowLayout:
    """What all micro-batches of a rank have in common."""

    block_size: int
    """Positions of a KV block."""
    costs: GroupCosts
    """Of attending decode rows in groups."""
    dtype: torch.dtype
    """Of the masks; the model's."""
    device: torch.device

    @classmethod
    def of(cls, pool: KVPool) -> RowLayout:
        """The layout for a rank's KV cache."""
        costs = group_costs(pool.device.type, pool.is_readable_in_place, pool.layer_block_bytes)
        return cls(pool.block_size, costs, pool.dtype, pool.device)


class RowBatch:
    """One micro-batch of ``N`` segments.

    Args:
        token_ids_T: int64; None on a stage that does not embed.
        starts_N, lengths_N: positions ``[start, start + length)`` of each segment, int64; decode rows first.
        tables_NC: block table of each segment's sequence, int64, complete up to its last row.
        num_decode: how many segments are decode rows (length 1).
    """

    def __init__(
        self,
        layout: RowLayout,
        token_ids_T: IntArray | None,
        starts_N: IntArray,
        lengths_N: IntArray,
        tables_NC: IntArray,
        num_decode: int,
    ) -> None:
        block_size, device = layout.block_size, layout.device
        segment_T = np.repeat(np.arange(len(starts_N)), lengths_N)
        first_row_N = np.cumsum(lengths_N) - lengths_N
        positions_T = starts_N[segment_T] + np.arange(len(segment_T)) - first_row_N[segment_T]
        blocks_T = tables_NC[segment_T, positions_T // block_size]
        self.num_rows = len(positions_T)
        self.num_decode = num_decode
        self.positions_T = torch.from_numpy(positions_T).to(device)
        """Position of each row in its sequence, int64."""
        self.places_T = torch.from_numpy(blocks_T * block_size + positions_T % block_size).to(device)
        """Where each row's key and value go: block id · block size + offset, int64."""
        token_ids_T = np.zeros_like(positions_T) if token_ids_T is None else token_ids_T
        self.token_ids_T = torch.from_numpy(token_ids_T).to(device)
        """int64; zeros on a stage that does not embed."""
        self._starts_N, self._lengths_N, self._tables_NC = starts_N, lengths_N, tables_NC
        self._first_row_N = first_row_N
        self._layout = layout
        self._decode_groups: dict[int | None, list[DecodeGroup]] = {}
        self._prefill_groups: dict[int | None, list[PrefillGroup]] = {}

    def decode_groups(self, window: int | None) -> list[DecodeGroup]:
        """The decode rows for layers with this sliding window; together they hold each decode row once."""
        if window not in self._decode_groups:
            self._decode_groups[window] = self._make_decode_groups(window) if self.num_decode else []
        return self._decode_groups[window]

    def prefill_groups(self, window: int | None) -> list[PrefillGroup]:
        """The prefill segments for layers with this sliding window, in row order."""
        if window not in self._prefill_groups:
            segments = range(self.num_decode, len(self._starts_N))
            self._prefill_groups[window] = [self._make_prefill_group(segment, window) for segment in segments]
        return self._prefill_groups[window]

    def _make_decode_groups(self, window: int | None) -> list[DecodeGroup]:
        positions_S = self._starts_N[: self.num_decode]
        oldest_S = np.zeros_like(positions_S) if window is None else np.maximum(positions_S - window + 1, 0)
        first_S = oldest_S // self._layout.block_size
        counts_S = positions_S // self._layout.block_size + 1 - first_S
        split = split_by_length(counts_S, self._layout.costs)
        return [
            DecodeGroup(
                rows=slice(0, self.num_decode) if len(split) == 1 else torch.from_numpy(chosen).to(self._layout.device),
                blocks_SC=self._blocks(chosen, first_S[chosen], counts_S[chosen]),
                mask_S1L=self._decode_mask(positions_S[chosen], oldest_S[chosen], first_S[chosen], counts_S[chosen]),
            )
            for chosen in split
        ]

    def _blocks(self, chosen: IntArray, first_S: IntArray, counts_S: IntArray) -> torch.Tensor:
        columns_C = np.arange(int(counts_S.max()))
        at_SC = np.minimum(first_S[:, None] + columns_C, self._tables_NC.shape[1] - 1)
        blocks_SC = np.where(columns_C < counts_S[:, None], self._tables_NC[chosen[:, None], at_SC], SCRATCH_BLOCK)
        return torch.from_numpy(blocks_SC).to(self._layout.device)

    def _decode_mask(
        self, positions_S: IntArray, oldest_S: IntArray, first_S: IntArray, counts_S: IntArray
    ) -> torch.Tensor:
        at_SL = first_S[:, None] * self._layout.block_size + np.arange(int(counts_S.max()) * self._layout.block_size)
        return self._mask((at_SL <= positions_S[:, None]) & (at_SL >= oldest_S[:, None])).unsqueeze(1)

    def _make_prefill_group(self, segment: int, window: int | None) -> PrefillGroup:
        size, start, length = self._layout.block_size, int(self._starts_N[segment]), int(self._lengths_N[segment])
        first_row = int(self._first_row_N[segment])
        rows = slice(first_row, first_row + length)
        if start == 0 and (window is None or length <= window):
            return PrefillGroup(rows, None, None)
        oldest = 0 if window is None else max(start - window + 1, 0)
        first, last = oldest // size, -(-(start + length) // size)
        blocks_C = (
            torch.from_numpy(self._tables_NC[segment, first:last].copy()).to(self._layout.device) if start else None
        )
        positions_T1 = np.arange(start, start + length)[:, None]
        at_L = np.arange(first * size, last * size) if start else np.arange(length)
        looks_TL = at_L <= positions_T1
        if window is not None:
            looks_TL &= at_L > positions_T1 - window
        return PrefillGroup(rows, blocks_C, self._mask(looks_TL))

    def _mask(self, looks: BoolArray) -> torch.Tensor:
        mask = torch.zeros(looks.shape, dtype=self._layout.dtype, device=self._layout.device)
        return mask.masked_fill_(torch.from_numpy(~looks).to(self._layout.device), float("-inf"))
