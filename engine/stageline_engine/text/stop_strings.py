"""Stop strings in a stream of text. What could be the beginning of one is held back until that is decided."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the stop string that is complete first; of those complete at the same character, the longest.

    The result does not depend on how the text is cut into pieces. Costs one step per character and stop string.

    Args:
        stops: texts of at least one character.
        include_in_output: whether the found stop string is part of the text.
    """

    def __init__(self, stops: Sequence[str], include_in_output: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include_in_output
        self._failures = tuple(_failure_table(stop) for stop in self._stops)
        self._matched = [0] * len(self._stops)
        """For each stop string, how many of its first characters the text ends with."""
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text; nothing may be pushed after it."""

    def push(self, text: str, *, searching: bool = True) -> str:
        """Text that can go out now.

        Args:
            text: the next piece.
            searching: False while the sequence is shorter than ``min_tokens``: a stop string that is complete within
                this piece does not count, one that only begins in it may.
        """
        if not self._stops:
            return text
        for index, character in enumerate(text):
            longest = self._advance(character)
            if longest is not None and searching:
                self.found = longest
                self._held += text[: index + 1]
                return self.flush() if self._include else self._without(longest)
        return self._keep_beginnings(self._held + text)

    def flush(self) -> str:
        """What is still held, at the end of the sequence."""
        out, self._held = self._held, ""
        return out

    def _without(self, stop: str) -> str:
        out = self._held[: -len(stop)]
        self._held = ""
        return out

    def _keep_beginnings(self, text: str) -> str:
        num_kept = max(self._matched)
        cut = len(text) - num_kept
        self._held = text[cut:]
        return text[:cut]

    def _advance(self, character: str) -> str | None:
        longest: str | None = None
        for index, stop in enumerate(self._stops):
            failure, matched = self._failures[index], self._matched[index]
            while matched and stop[matched] != character:
                matched = failure[matched - 1]
            if stop[matched] == character:
                matched += 1
            if matched == len(stop):
                if longest is None or len(stop) > len(longest):
                    longest = stop
                matched = failure[matched - 1]
            self._matched[index] = matched
        return longest


def _failure_table(stop: str) -> list[int]:
    # Knuth-Morris-Pratt: for each prefix, the longest proper prefix that is also its suffix.
    table = [0] * len(stop)
    matched = 0
    for index in range(1, len(stop)):
        while matched and stop[index] != stop[matched]:
            matched = table[matched - 1]
        if stop[index] == stop[matched]:
            matched += 1
        table[index] = matched
    return table
