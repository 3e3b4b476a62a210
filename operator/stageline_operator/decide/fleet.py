"""All replicas of a resource, sorted by what may become of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stageline_operator.api.conditions import ReplicaPhase
from stageline_operator.decide.replicas import Replica
from stageline_operator.decide.times import seconds_or_none
from stageline_operator.plan.plan import Plan
from stageline_operator.plan.spec import Spec


@dataclass(frozen=True, slots=True)
class Fleet:
    """The replicas of a resource.

    Attributes:
        live: they have pods, are not leaving and not given up.
        unborn: objects or the status tell of them, and pods do not; creating a replica begins with these.
        leaving: all their pods are being deleted, or they were given up and still have pods.
        gone: they left; what remains of them is deleted.
        held: given up, and no other may be made in their stead: terminal, or backing off.
        due: given up, and another may be made in their stead.
    """

    live: tuple[Replica, ...]
    unborn: tuple[Replica, ...]
    leaving: tuple[Replica, ...]
    gone: tuple[Replica, ...]
    held: tuple[Replica, ...]
    due: tuple[Replica, ...]

    @property
    def numbers(self) -> set[int]:
        """All numbers that are taken."""
        groups = (self.live, self.unborn, self.leaving, self.gone, self.held, self.due)
        return {replica.number for group in groups for replica in group}


def sort_fleet(spec: Spec, plan: Plan, replicas: Iterable[Replica], now: float) -> Fleet:
    """Each replica in its group; one that was given up and still has pods is in two."""
    replicas = list(replicas)
    failed = [replica for replica in replicas if replica.is_failed]
    rest = [replica for replica in replicas if not replica.is_failed]
    live = [replica for replica in rest if not replica.is_empty and not replica.is_leaving]
    empty = [replica for replica in rest if replica.is_empty]
    # A change of the spec tries again; one that no live replica shares the revision with is of no interest any more.
    is_new_spec = spec.generation != spec.status.observed_generation
    revisions = {plan.current.revision}
    if plan.rollout.paused:
        revisions |= {replica.revision for replica in live}
    mattering = [replica for replica in failed if replica.revision in revisions]
    held = [] if is_new_spec else [replica for replica in mattering if not _is_due(replica, now)]
    return Fleet(
        live=tuple(live),
        unborn=tuple(replica for replica in empty if not _left(replica)),
        leaving=tuple(
            [replica for replica in rest if replica.is_leaving]
            + [replica for replica in failed if not replica.is_empty]
        ),
        gone=tuple(replica for replica in empty if _left(replica)) + tuple(r for r in failed if r.is_empty),
        held=tuple(held),
        due=tuple(replica for replica in mattering if replica not in held),
    )


def _left(replica: Replica) -> bool:
    return replica.memory is not None and replica.memory.phase is ReplicaPhase.DRAINING


def _is_due(replica: Replica, now: float) -> bool:
    at = seconds_or_none(replica.memory.next_restart) if replica.memory is not None else None
    return at is not None and at <= now
