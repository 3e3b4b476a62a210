"""The best way to cut a row of layers into consecutive parts. Exact, and free of any notion of models."""

from __future__ import annotations

from collections.abc import Callable


def best_partition(
    num_items: int, num_parts: int, cost: Callable[[int, int, int], float | None]
) -> tuple[int, ...] | None:
    """Sizes of the parts that make the costliest part as cheap as can be; None when no cut is allowed.

    Args:
        cost: ``cost(part, start, end)`` of giving ``[start, end)`` to ``part``; None forbids it. Longer ranges that
            begin at the same place must not be allowed again once one is forbidden.
    """
    # best[end]: the least maximum of the parts so far over [0, end), with the sizes that give it.
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for part in range(num_parts):
        extended: dict[int, tuple[float, tuple[int, ...]]] = {}
        parts_left = num_parts - part - 1
        for start, (highest, sizes) in best.items():
            ends = range(start + 1, num_items - parts_left + 1) if parts_left else (num_items,)
            for end in ends:
                own = cost(part, start, end)
                if own is None:
                    break
                candidate = (max(highest, own), (*sizes, end - start))
                if end not in extended or candidate[0] < extended[end][0]:
                    extended[end] = candidate
        best = extended
    return best[num_items][1] if num_items in best else None
