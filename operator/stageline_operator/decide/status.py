"""Outcome → the whole status."""

from __future__ import annotations

from typing import Final

from stageline_operator.api.conditions import ReplicaPhase
from stageline_operator.api.status import Failure, InferenceDeploymentStatus, ReplicaStatus
from stageline_operator.decide import replica_status
from stageline_operator.decide.conditions import make_conditions, phase
from stageline_operator.decide.effective import effective, plan_status, serving_plan
from stageline_operator.decide.outcome import Outcome
from stageline_operator.decide.shorten import shorten
from stageline_operator.objects.metadata import select_heads

_TROUBLE_FIRST: Final = (
    ReplicaPhase.FAILED,
    ReplicaPhase.RECOVERING,
    ReplicaPhase.PENDING,
    ReplicaPhase.STARTING,
    ReplicaPhase.DRAINING,
    ReplicaPhase.READY,
)


def make_status(outcome: Outcome) -> InferenceDeploymentStatus:
    """What is."""
    plan = outcome.plan
    entries = _entries(outcome)
    settings = effective(outcome)
    conditions = make_conditions(outcome, settings)
    word, reason = phase(outcome, conditions)
    return InferenceDeploymentStatus(
        observed_generation=outcome.spec.generation,
        phase=word,
        reason=reason,
        replicas=len(outcome.staying),
        ready_replicas=outcome.ready,
        updated_replicas=outcome.updated,
        ready=f"{outcome.ready}/{plan.replicas}",
        selector=",".join(f"{key}={value}" for key, value in select_heads(plan.owner).items()),
        current_revision=plan.current.revision,
        settled_revision=plan.current.revision if outcome.is_settled else outcome.spec.status.settled_revision,
        conditions=conditions,
        plan=plan_status(outcome),
        replica_list=shorten(entries),
        effective=settings,
        effective_revision=serving_plan(outcome).revision,
        last_failure=_last_failure(outcome),
    )


def _entries(outcome: Outcome) -> list[ReplicaStatus]:
    now = outcome.now
    entries = [replica_status.staying(course, now) for course in outcome.courses]
    entries += [replica_status.draining(replica, now) for replica in outcome.draining]
    for replica in outcome.waiting:
        entries += replica_status.waiting(replica, outcome)
    return sorted(entries, key=lambda entry: (_TROUBLE_FIRST.index(entry.phase), entry.replica))


def _last_failure(outcome: Outcome) -> Failure | None:
    """The latest of all, with its log lines; the status keeps it when its replica is gone."""
    found = [counted.failure for course in outcome.courses for counted in course.books.counted]
    if outcome.spec.status.last_failure is not None:
        found.append(outcome.spec.status.last_failure)
    return max(found, key=lambda failure: failure.time, default=None)
