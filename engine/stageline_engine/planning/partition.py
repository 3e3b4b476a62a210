"""The best way to cut a row of layers into consecutive parts. Exact, and free of any notion of models."""

from __future__ import annotations

from collections.abc import Callable

Cost = tuple[float, float]
"""Seconds of one part in each of two phases."""


def best_partition(
    num_items: int, num_parts: int, cost: Callable[[int, int, int], Cost | None], weights: Cost
) -> tuple[int, ...] | None:
    """Sizes of the parts that make ``Σ over phases of weight × slowest part`` least; None when no cut is allowed.

    The parts work at the same time, so that in each phase the slowest one decides, and the phases follow each other.

    Args:
        cost: ``cost(part, start, end)`` of giving ``[start, end)`` to ``part``; None forbids it. Longer ranges that
            begin at the same place must not be allowed again once one is forbidden.
        weights: how much each phase counts.
    """
    # front[end]: for the parts so far over [0, end), every pair of maxima that no other pair beats in both phases,
    # with the sizes that give it. One more part extends each pair; the best total of the last front is the optimum.
    front: dict[int, list[tuple[float, float, tuple[int, ...]]]] = {0: [(0.0, 0.0, ())]}
    for part in range(num_parts):
        extended: dict[int, list[tuple[float, float, tuple[int, ...]]]] = {}
        parts_left = num_parts - part - 1
        for start, labels in front.items():
            ends = range(start + 1, num_items - parts_left + 1) if parts_left else (num_items,)
            for end in ends:
                own = cost(part, start, end)
                if own is None:
                    break
                extended.setdefault(end, []).extend(
                    (max(first, own[0]), max(second, own[1]), (*sizes, end - start)) for first, second, sizes in labels
                )
        front = {end: _undominated(labels) for end, labels in extended.items()}
    final = front.get(num_items)
    if not final:
        return None
    return min(final, key=lambda label: weights[0] * label[0] + weights[1] * label[1])[2]


def _undominated(
    labels: list[tuple[float, float, tuple[int, ...]]],
) -> list[tuple[float, float, tuple[int, ...]]]:
    kept: list[tuple[float, float, tuple[int, ...]]] = []
    for label in sorted(labels):
        if not kept or label[1] < kept[-1][1]:
            kept.append(label)
    return kept
