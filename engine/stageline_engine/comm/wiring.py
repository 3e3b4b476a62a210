"""Which ranks are joined with which; the engine core and every rank work it out for themselves, and agree.

Hidden states are whole on every tensor-parallel rank, so rank r receives from rank r mod T of the stage before, whose
T may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stageline_engine.comm.commands import RankId


@dataclass(frozen=True)
class Wire:
    """A group of ranks that talk to each other; a rank's place in ``members`` is its number there."""

    name: str
    members: tuple[RankId, ...]

    def number_of(self, member: RankId) -> int:
        """Place of ``member``."""
        return self.members.index(member)


def boundary_wires(tp_of_stages: Sequence[int]) -> list[Wire]:
    """A (sender, receiver) pair for each rank of each stage but the first."""
    return [
        Wire(f"boundary-{stage}-{rank}", ((stage - 1, rank % tp_of_stages[stage - 1]), (stage, rank)))
        for stage in range(1, len(tp_of_stages))
        for rank in range(tp_of_stages[stage])
    ]


def tensor_wires(tp_of_stages: Sequence[int]) -> list[Wire]:
    """The ranks of each stage that has several."""
    return [
        Wire(f"tensor-{stage}", tuple((stage, rank) for rank in range(size)))
        for stage, size in enumerate(tp_of_stages)
        if size > 1
    ]


def takes_feedback(member: RankId, tp_of_stages: Sequence[int]) -> bool:
    """Whether step results come to ``member`` from another process: to stage 0, unless they are made right there."""
    return member[0] == 0 and not (member[1] == 0 and len(tp_of_stages) == 1)


def sends_feedback(member: RankId, tp_of_stages: Sequence[int]) -> bool:
    """Whether ``member`` makes the step results."""
    return member == (len(tp_of_stages) - 1, 0)
