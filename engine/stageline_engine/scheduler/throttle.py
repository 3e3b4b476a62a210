"""How many prefill tokens the next micro-batch takes.

While nothing decodes, prefill has the pipeline for itself: whole budgets, or equal parts when less than a budget for
each stage is left. While something decodes, a burst of prompt tokens is cut into equal parts over several rounds, so
that micro-batches take equal time, and the parts shrink as KV fills. A part's size holds until the backlog is gone: a
part of what is left would shrink for ever.
"""

from __future__ import annotations

from stageline_engine.scheduler.predictor import StepTimePredictor

MOST_ROUNDS = 4
"""Rounds of the slots over which a burst is spread while something decodes: one more than there are stages, at most
this. In simulation 8 rounds save 2 % of the bubble more and cost a quarter of the time to first token."""
SMALLEST_PART = 16
"""Tokens: a smaller part delays the first token more than it smooths."""
SMALLEST_SHARE = 0.25
"""Of the smallest part: what even the heaviest slot takes, so that prefill goes on."""
KV_KNEE = 0.5
"""Share of free blocks below which parts shrink, in proportion."""


class PrefillThrottle:
    """Remembers the part sizes of the burst that is being worked off."""

    def __init__(self, budget: int, slots: int, predictor: StepTimePredictor) -> None:
        self._budget = budget
        self._slots = slots
        self._predictor = predictor
        self._part_alone = 0
        self._part_beside = 0

    def alone(self, backlog: int) -> int:
        """Tokens of a micro-batch when nothing decodes and ``backlog`` prompt tokens can run."""
        if self._part_alone * self._predictor.num_stages < backlog:
            self._part_alone = max(self._part_alone, self._equal_part(backlog))
        return self._part_alone

    def beside_decodes(self, backlog: int, free_share: float, load: float, mean_load: float) -> float:
        """Tokens (at prefix 0) of a micro-batch that also decodes, or whose neighbours do.

        Args:
            backlog: prompt tokens that can run.
            free_share: free blocks of all.
            load: predicted seconds of this slot's decode rows, over all stages; a heavy slot takes fewer tokens.
            mean_load: the same, mean over the slots.
        """
        rounds = min(1 + self._predictor.num_stages, MOST_ROUNDS)
        part = max(-(-backlog // (rounds * self._slots)), min(SMALLEST_PART, self._budget))
        self._part_beside = max(self._part_beside, part)
        tokens = self._part_beside * min(1.0, free_share / KV_KNEE)
        if self._predictor.total.prefill_token > 0:
            tokens += (mean_load - load) / self._predictor.total.prefill_token
        return max(tokens, 1.0, SMALLEST_SHARE * SMALLEST_PART)

    def end_burst(self) -> None:
        """No prompt token can run any more."""
        self._part_alone = self._part_beside = 0

    def weight(self, prefix: int) -> float:
        """Cost of a prefill token behind ``prefix`` positions, in tokens at prefix 0."""
        cost = self._predictor.total
        return 1.0 + cost.prefix_product * prefix / cost.prefill_token if cost.prefill_token > 0 else 1.0

    def _equal_part(self, backlog: int) -> int:
        """Part that gets the backlog through all stages soonest: whole budgets, or equal parts for at most each stage.

        The first part needs ``stages`` turns, every other one more; each turn costs the base time.
        """
        stages = self._predictor.num_stages
        fewest = -(-backlog // self._budget)
        if fewest > stages:
            return self._budget
        cost = self._predictor.total

        def seconds(parts: int) -> float:
            return (parts + stages - 1) * (cost.base + cost.prefill_token * backlog / parts)

        parts = min(range(fewest, stages + 1), key=lambda parts: (seconds(parts), parts))
        return -(-backlog // parts)
