"""Which decoding sequence belongs to which slot, and when it moves. Balanced by predicted time, not by count."""

from __future__ import annotations

from collections.abc import Iterable

from stageline_engine.core.sequence import Sequence
from stageline_engine.scheduler.predictor import StepTimePredictor

MOVE_ABOVE = 0.02
"""Spread between two slots, as a share of a micro-batch's time, below which no row moves: a moved row skips a turn."""


class SlotTable:
    """Members and predicted load of M slots. Load leaves out the base time, which every slot has."""

    def __init__(self, count: int, predictor: StepTimePredictor) -> None:
        self._predictor = predictor
        self.members: list[list[Sequence]] = [[] for _ in range(count)]
        self.contexts = [0] * count
        """Planned positions of the members, summed by slot."""

    @property
    def count(self) -> int:
        """M."""
        return len(self.members)

    @property
    def num_active(self) -> int:
        """Slots that have members."""
        return sum(1 for members in self.members if members)

    def load(self, slot: int) -> float:
        """Predicted seconds that the members' rows add to a micro-batch, over all stages."""
        cost = self._predictor.total
        return cost.decode_row * len(self.members[slot]) + cost.context_token * self.contexts[slot]

    def mean_load(self) -> float:
        """Over all slots."""
        return sum(map(self.load, range(self.count))) / self.count

    def join(self, sequence: Sequence, preferred: int) -> None:
        """Put a sequence that begins to decode into the lightest slot; among equals, ``preferred``, then the next."""
        count = self.count
        slot = min(range(count), key=lambda slot: (self.load(slot), (slot - preferred) % count))
        self._enter(sequence, slot)

    def leave(self, sequence: Sequence) -> None:
        """Take a sequence out of its slot."""
        assert sequence.slot is not None
        self.members[sequence.slot].remove(sequence)
        self.contexts[sequence.slot] -= sequence.num_planned
        sequence.slot = None

    def rebalance(self, slot: int, returned: Iterable[Sequence]) -> None:
        """Move sequences whose token came back from ``slot`` to the lightest slot, while that narrows the spread."""
        movable = [sequence for sequence in returned if sequence.slot == slot]
        cost = self._predictor.total
        least = MOVE_ABOVE * (cost.base + self.load(slot))
        while movable:
            lightest = min(range(self.count), key=self.load)
            spread = self.load(slot) - self.load(lightest)
            if spread <= least:
                return
            weights = [cost.decode_row + cost.context_token * sequence.num_planned for sequence in movable]
            index = min(range(len(movable)), key=lambda index: abs(weights[index] - spread / 2))
            # The spread after the move is |spread - 2 × weight|; a move that only swaps the sides gains nothing.
            if abs(spread - 2 * weights[index]) > 0.7 * spread:
                return
            moved = movable.pop(index)
            self.leave(moved)
            self._enter(moved, lightest)

    def _enter(self, sequence: Sequence, slot: int) -> None:
        sequence.slot = slot
        self.members[slot].append(sequence)
        self.contexts[slot] += sequence.num_planned
