"""Sets of byte positions as sorted, disjoint, half-open spans ``(begin, end)``. Arithmetic only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """All positions of ``spans``, which may overlap; neighbours become one."""
    joined: list[Span] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif begin < end:
            joined.append((begin, end))
    return joined


def difference(wanted: Iterable[Span], present: Iterable[Span]) -> list[Span]:
    """What of ``wanted`` is not in ``present``."""
    held = union(present)
    left: list[Span] = []
    for begin, end in union(wanted):
        for low, high in held:
            if high <= begin or low >= end:
                continue
            if low > begin:
                left.append((begin, low))
            begin = high
        if begin < end:
            left.append((begin, end))
    return left


def length(spans: Iterable[Span]) -> int:
    """Positions in disjoint spans."""
    return sum(end - begin for begin, end in spans)


def pieces(spans: Iterable[Span], size: int) -> Iterator[Span]:
    """The same positions in spans of at most ``size``, in order."""
    for begin, end in spans:
        for at in range(begin, end, size):
            yield at, min(at + size, end)
