"""The objects that a resource has once, whatever its replicas."""

from __future__ import annotations

from stageline_operator.objects.account import service_account
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.monitor import pod_monitor
from stageline_operator.objects.services import client_service, peer_service
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.plan import Plan


def shared_objects(plan: Plan, cluster: Cluster) -> tuple[Body, ...]:
    """In the order in which they are applied: what pods need first."""
    bodies = [service_account(plan), peer_service(plan), client_service(plan)]
    if plan.monitoring.pod_monitor == "auto" and cluster.pod_monitor:
        bodies.append(pod_monitor(plan))
    return tuple(bodies)
