"""Which decode rows are attended together, so that the least is read for nothing. Integers only.

Padding a short context to a long one is work, and so is each further operation. What one operation copies, where it
copies, should fit into a cache, or at least into memory that stays small beside the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class GroupCosts(NamedTuple):
    """In KV blocks of one layer."""

    group: int
    """As many blocks could be read and multiplied in the time that one more group of rows costs."""
    most: int
    """Blocks that one operation may take, unless a single row needs more."""


_IN_PLACE = (600 << 10, 1 << 40)
"""Bytes for each field of GroupCosts where blocks are read in place. Measured on one and two cores: 75 to 120 µs for
the operations of a group, 5 to 8 GB/s; nothing is copied, so no group is too large."""

_GATHERED = {"cpu": (384 << 10, 16 << 20), "cuda": (32 << 20, 512 << 20)}
"""The same where blocks are copied first. CPU: measured on one core, about 50 µs for the operations of a group, 8 GB/s
for copying and multiplying; an 8 MB copy per operation instead of 50 MB saved two thirds of the time. CUDA: from data
sheets, not measured."""


def group_costs(device_type: str, is_in_place: bool, block_bytes: int) -> GroupCosts:
    """The costs for a layer whose keys and values of one block take ``block_bytes``."""
    group, most = _IN_PLACE if is_in_place else _GATHERED.get(device_type, _GATHERED["cpu"])
    return GroupCosts(group // block_bytes, max(1, most // block_bytes))


def split_by_length(counts_S: IntArray, costs: GroupCosts) -> list[IntArray]:
    """Split rows with ``counts_S`` blocks each so that padding and the number of groups together cost the least.

    Returns the row indices of each group, ascending.
    """
    values, sizes = np.unique(counts_S, return_counts=True)
    cuts: list[int] = []
    if values[-1] * len(counts_S) - counts_S.sum() > costs.group:
        cuts = _best_cuts(values.tolist(), sizes.tolist(), costs.group)
    is_cut = np.zeros(len(values), np.int64)
    is_cut[cuts] = 1
    group_S = np.cumsum(is_cut)[np.searchsorted(values, counts_S)]
    groups = [np.flatnonzero(group_S == group) for group in range(len(cuts) + 1)]
    return [part for group in groups for part in _parts(group, int(counts_S[group].max()), costs.most)]


def _parts(rows: IntArray, longest: int, most: int) -> list[IntArray]:
    """Even parts of a group, each of which copies at most ``most`` blocks if it has more than one row."""
    rows_of_part = max(1, most // longest)
    return np.array_split(rows, -(-len(rows) // rows_of_part))


def _best_cuts(values: list[int], sizes: list[int], group_cost: int) -> list[int]:
    """Indices into the ascending ``values`` where a new group begins. Dynamic programming over the last group."""
    least = [0] * (len(values) + 1)
    begin = [0] * (len(values) + 1)
    for end in range(1, len(values) + 1):
        rows = sizes[end - 1]
        best = least[end - 1] + rows * values[end - 1]
        begin[end] = end - 1
        for start in range(end - 2, -1, -1):
            rows += sizes[start]
            cost = least[start] + rows * values[end - 1]
            if cost < best:
                best, begin[end] = cost, start
        least[end] = best + group_cost
    cuts = []
    end = begin[len(values)]
    while end > 0:
        cuts.append(end)
        end = begin[end]
    return cuts[::-1]
