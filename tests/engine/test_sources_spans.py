"""Spans of bytes: the same positions as sets of numbers, in the fewest spans."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stageline_engine.sources import spans

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def positions(given_spans: list[tuple[int, int]]) -> set[int]:
    return {at for begin, end in given_spans for at in range(begin, end)}


def is_canonical(found: list[tuple[int, int]]) -> bool:
    return all(begin < end for begin, end in found) and all(a[1] < b[0] for a, b in zip(found, found[1:], strict=False))


@given(SPANS)
def test_a_union_has_the_same_positions_in_the_fewest_spans(some: list[tuple[int, int]]) -> None:
    found = spans.union(some)
    assert positions(found) == positions(some)
    assert is_canonical(found)
    assert spans.length(found) == len(positions(some))


@given(SPANS, SPANS)
def test_a_difference_has_the_wanted_positions_that_are_not_present(
    wanted: list[tuple[int, int]], present: list[tuple[int, int]]
) -> None:
    found = spans.difference(wanted, present)
    assert positions(found) == positions(wanted) - positions(present)
    assert is_canonical(found)


@given(SPANS, st.integers(1, 9))
def test_pieces_are_small_and_lose_nothing(some: list[tuple[int, int]], size: int) -> None:
    whole = spans.union(some)
    found = list(spans.pieces(whole, size))
    assert spans.union(found) == whole
    assert spans.length(found) == spans.length(whole)
    assert all(0 < end - begin <= size for begin, end in found)
