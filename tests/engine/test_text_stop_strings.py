"""Stop strings: found at the first character that completes one, never shown in part, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageline_engine.text.stop_strings import StopStrings


def stream(pieces: list[str], stops: list[str], *, include: bool = False) -> tuple[list[str], str | None]:
    finder = StopStrings(stops, include)
    out: list[str] = []
    for piece in pieces:
        out.append(finder.push(piece))
        if finder.found is not None:
            return out, finder.found
    return [*out, finder.flush()], None


def expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The rule, written without a stream: the first end, and of those the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return (text[:end] if include else text[: end - len(longest)]), longest
    return text, None


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "found"),
    [
        (["Hello ", "wor", "ld"], ["world"], ["Hello ", "", ""], "world"),
        (["a STO", "OP"], ["STOP"], ["a ", "STOOP", ""], None),
        (["abab", "abac"], ["abac"], ["ab", "ab"], "abac"),
        (["x", "\n", "\n", "y"], ["\n\n"], ["x", "", ""], "\n\n"),
        (["ab"], ["b", "ab"], [""], "ab"),
        (["abc"], ["b", "abc"], ["a"], "b"),
        (["no", "thing"], [], ["no", "thing", ""], None),
        (["tail ST"], ["STOP"], ["tail ", "ST"], None),
    ],
)
def test_text_goes_out_as_soon_as_it_cannot_begin_a_stop_string(
    pieces: list[str], stops: list[str], shown: list[str], found: str | None
) -> None:
    assert stream(pieces, stops) == (shown, found)


@given(
    text=st.text("ab", max_size=40),
    stops=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=4, unique=True),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    include=st.booleans(),
)
def test_the_result_does_not_depend_on_the_pieces_and_nothing_leaks(
    text: str, stops: list[str], cuts: list[int], include: bool
) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    out, found = stream(pieces, stops, include=include)
    final, stop = expected(text, stops, include)
    assert ("".join(out), found) == (final, stop)
    # Whatever was out at any time is a beginning of the final text: nothing had to be taken back.
    shown = ""
    for piece in out:
        shown += piece
        assert final.startswith(shown)


def test_a_stop_string_within_the_first_tokens_does_not_count_but_one_that_ends_later_does() -> None:
    finder = StopStrings(["END"])
    assert finder.push("an END and EN", searching=False) == "an END and "
    assert finder.push("D.") == ""
    assert finder.found == "END"


def test_an_included_stop_string_is_shown_up_to_its_end() -> None:
    assert stream(["say ST", "OP now"], ["STOP"], include=True) == (["say ", "STOP"], "STOP")
