"""Every name of a child, made here alone. A resource's name has at most MAX_NAME characters, so each is a DNS label."""

from __future__ import annotations

from stageline_operator.api.root_rules import PEERS_SUFFIX
from stageline_operator.plan.spec import Owner


def replica(owner: Owner, number: int) -> str:
    """A pipeline replica; also its PodDisruptionBudget and PodGroup."""
    return f"{owner.name}-{number}"


def head_pod(owner: Owner, number: int, incarnation: int) -> str:
    """The head pod of a replica."""
    return f"{owner.name}-{number}-head-{incarnation}"


def stage_pod(owner: Owner, number: int, stage: int, incarnation: int) -> str:
    """The pod of a stage of a replica."""
    return f"{owner.name}-{number}-s{stage}-{incarnation}"


def head_host(number: int) -> str:
    """``hostname`` of a replica's head: the same for all incarnations, so that stages find the next one."""
    return f"r{number}-head"


def stage_host(number: int, stage: int) -> str:
    """``hostname`` of a stage's pod: the same for all incarnations."""
    return f"r{number}-s{stage}"


def peer_service(owner: Owner) -> str:
    """The headless Service through which stages find their head; ``subdomain`` of all pods."""
    return f"{owner.name}{PEERS_SUFFIX}"


def client_service(owner: Owner, wanted: str | None) -> str:
    """The Service for clients: ``spec.network.serviceName``, or the resource's name."""
    return wanted or owner.name


def service_account(owner: Owner) -> str:
    """The ServiceAccount of all pods; without a token."""
    return f"{owner.name}-pods"


def network_policy(owner: Owner, number: int) -> str:
    """The NetworkPolicy of a replica."""
    return f"{owner.name}-{number}"


def pod_monitor(owner: Owner) -> str:
    """The PodMonitor."""
    return owner.name


def controller_revision(owner: Owner, revision: str) -> str:
    """The ControllerRevision that keeps a revision's content."""
    return f"{owner.name}-{revision}"


def group_secret(owner: Owner) -> str:
    """The Secret with the replica group's keys: named with the uid, since the operator cannot read whose it is."""
    return f"{owner.name}-{owner.uid}"
