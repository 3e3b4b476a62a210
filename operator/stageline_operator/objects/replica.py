"""The objects that each replica has one of, besides its pods."""

from __future__ import annotations

from stageline_operator.objects.disruption import disruption_budget
from stageline_operator.objects.gang import Gang, pod_group
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.network_policy import network_policy
from stageline_operator.plan.plan import Plan, RevisionPlan


def replica_objects(plan: Plan, revision: RevisionPlan, replica: int, gang: Gang) -> tuple[Body, ...]:
    """In the order in which they are applied: the group before the pods that wait for it."""
    bodies = [disruption_budget(revision, plan.owner, replica, gang.name)]
    if plan.network.network_policy:
        bodies.append(network_policy(revision, plan.owner, replica, gang.name))
    group = pod_group(gang, revision, plan.owner, replica)
    return (*bodies, group) if group is not None else tuple(bodies)
