"""How many replicas of which revision: what to create, what to drain. Scale and roll-out are this one decision.

The unit is a whole replica. Limits are ``spec.replicas + maxSurge`` replicas that exist, those that still drain
included, and ``spec.replicas - maxUnavailable`` that are ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stageline_operator.decide.fleet import Fleet
from stageline_operator.decide.replicas import Replica
from stageline_operator.plan.plan import Plan, RevisionPlan


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to be done next; nothing, when all is as wanted.

    Attributes:
        target: revision of the replicas to create.
        create: how many.
        drain: which replicas to drain, and why.
    """

    target: RevisionPlan
    create: int
    drain: tuple[tuple[Replica, str], ...]


def next_moves(plan: Plan, fleet: Fleet) -> Moves:
    """What to create and drain now."""
    old = [replica for replica in fleet.live if replica.revision != plan.current.revision]
    if old and plan.rollout.paused:
        return _scale_only(plan, fleet, old)
    new = [replica for replica in fleet.live if replica.revision == plan.current.revision]
    held = {replica.number for replica in fleet.held if replica.revision == plan.current.revision}
    create = plan.replicas - len(new) - len(held)
    if old:
        existing = {replica.number for replica in (*fleet.live, *fleet.leaving)} | held
        create = min(create, plan.replicas + plan.rollout.max_surge - len(existing))
    drain = [(each, f"replica {each.number} has an earlier revision") for each in _superseded(plan, new, old)]
    return Moves(plan.current, max(0, create), (*drain, *_surplus(plan, new)))


def keep(plan: Plan, fleet: Fleet) -> Moves:
    """Make nothing, and drain only what is more than wanted."""
    return Moves(plan.current, 0, _surplus(plan, fleet.live))


def is_stopped(plan: Plan, fleet: Fleet) -> bool:
    """The roll-out goes no further, since a replica of the new revision was given up while old ones remain."""
    has_old = any(replica.revision != plan.current.revision for replica in fleet.live)
    return has_old and any(replica.revision == plan.current.revision for replica in fleet.held)


def drain_order(replicas: Iterable[Replica]) -> list[Replica]:
    """Those that serve nobody first, then the newest. One whose drain began is not ready, so it stays the choice."""
    return sorted(replicas, key=lambda replica: (replica.is_ready, -replica.created_at, -replica.number))


def _superseded(plan: Plan, new: Sequence[Replica], old: Sequence[Replica]) -> tuple[Replica, ...]:
    """Old replicas that may go: those that are not ready as long as enough others are on their way, and ready ones as
    long as enough are ready without them."""
    least = max(0, plan.replicas - plan.rollout.max_unavailable)
    ready = sum(replica.is_ready for replica in (*new, *old))
    starting = sum(not replica.is_ready for replica in new)
    order = drain_order(old)
    broken = [replica for replica in order if not replica.is_ready]
    broken = broken[: max(0, len(new) + len(old) - least - starting)]
    serving = [replica for replica in order if replica.is_ready][: max(0, ready - least)]
    return (*broken, *serving)


def _scale_only(plan: Plan, fleet: Fleet, old: Sequence[Replica]) -> Moves:
    """Paused: the mix of revisions stays; what is missing is made of the old revision."""
    known = [replica.plan for replica in drain_order(old) if replica.plan is not None]
    target = known[0] if known else plan.current
    create = plan.replicas - len(fleet.live) - len(fleet.held) if known else 0
    return Moves(target, max(0, create), _surplus(plan, fleet.live))


def _surplus(plan: Plan, replicas: Sequence[Replica]) -> tuple[tuple[Replica, str], ...]:
    too_many = drain_order(replicas)[: max(0, len(replicas) - plan.replicas)]
    return tuple((each, f"replica {each.number} is one more than wanted") for each in too_many)
