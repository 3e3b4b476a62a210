"""Which decode rows to attend together: padding a short context to a long one costs work, so does each operation more.

Integers only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GROUP_COST = 24
"""Cost of one more group, in KV blocks that could be gathered and multiplied in the same time."""

IntArray = npt.NDArray[np.int64]


def split_by_length(counts: IntArray, group_cost: int = GROUP_COST) -> list[IntArray]:
    """Split rows with ``counts`` blocks each into groups so that padded blocks + groups · cost is least.

    Returns the row indices of each group; one group keeps the rows' order.
    """
    values, sizes = np.unique(counts, return_counts=True)
    if (values[-1] * len(counts) - counts.sum()) <= group_cost:
        return [np.arange(len(counts))]
    cuts = _best_cuts(values.tolist(), sizes.tolist(), group_cost)
    group_of_value = np.zeros(len(values), np.int64)
    group_of_value[cuts] = 1
    group_of_row = np.cumsum(group_of_value)[np.searchsorted(values, counts)]
    return [np.flatnonzero(group_of_row == group) for group in range(len(cuts) + 1)]


def _best_cuts(values: list[int], sizes: list[int], group_cost: int) -> list[int]:
    """Indices into the ascending ``values`` where a new group begins."""
    best = [0] * (len(values) + 1)
    cut = [0] * (len(values) + 1)
    for end in range(1, len(values) + 1):
        rows, least = 0, None
        for start in range(end - 1, -1, -1):
            rows += sizes[start]
            cost = best[start] + rows * values[end - 1] + group_cost
            if least is None or cost < least:
                least, cut[end] = cost, start
        assert least is not None
        best[end] = least
    cuts = []
    end = cut[len(values)]
    while end > 0:
        cuts.append(end)
        end = cut[end]
    return cuts[::-1]
