"""Counts the tokens of one request."""

from __future__ import annotations

from stageline_engine.server import replies
from stageline_engine.server.generation import Delta


class UsageCounter:
    """Usage of a request, from its prompts and the deltas that have come."""

    def __init__(self, prompts: list[list[int]]) -> None:
        self._num_prompt = sum(map(len, prompts))
        self._num_generated = 0
        self._num_cached: dict[int, int] = {}

    def add(self, delta: Delta) -> None:
        """Count a delta."""
        self._num_generated += len(delta.text.token_ids)
        # A prompt's other choices may find what the first one has just left in the cache; that is no saving.
        if delta.text.choice == 0:
            self._num_cached.setdefault(delta.prompt, delta.num_cached_tokens)

    def so_far(self) -> replies.Usage:
        """As it stands."""
        return replies.usage(self._num_prompt, self._num_generated, sum(self._num_cached.values()))
