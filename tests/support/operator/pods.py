"""PodSummary values for tests: made from a pod's body, and changed as kubelets and controllers change pods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stageline_operator.api import constants as c
from stageline_operator.decide.observed import ContainerSummary, Ended, PodSummary

CREATING = ContainerSummary(
    name=c.CONTAINER_ENGINE,
    ready=False,
    running=False,
    restarts=0,
    waiting="ContainerCreating",
    waiting_message="",
    ended=None,
    last_ended=None,
)


def summary(body: dict[str, Any], uid: str, version: str, now: float) -> PodSummary:
    """A pod just created."""
    metadata = body["metadata"]
    labels = metadata["labels"]
    owners = metadata.get("ownerReferences") or [{"uid": ""}]
    return PodSummary(
        name=metadata["name"],
        uid=uid,
        resource_version=version,
        owner_uid=owners[0]["uid"],
        replica=int(labels[c.LABEL_REPLICA]),
        stage=int(labels[c.LABEL_STAGE]) if c.LABEL_STAGE in labels else None,
        incarnation=int(labels[c.LABEL_INCARNATION]),
        revision=labels[c.LABEL_REVISION],
        epoch=int(labels[c.LABEL_EPOCH]),
        created_at=float(int(now)),
        phase="Pending",
        phase_reason="",
        phase_message="",
        ready=False,
        ready_changed_at=None,
        scheduled_at=None,
        unschedulable="",
        node="",
        address="",
        gone_at=None,
        grace=None,
        disruption="",
        containers=(),
    )


def placed(pod: PodSummary, node: str, now: float) -> PodSummary:
    return replace(pod, scheduled_at=float(int(now)), node=node, unschedulable="", containers=(CREATING,))


def running(pod: PodSummary) -> PodSummary:
    container = replace(_engine(pod), running=True, waiting="", ended=None)
    return replace(pod, phase="Running", address="10.0.0.1", containers=(container,))


def made_ready(pod: PodSummary, ready: bool, now: float) -> PodSummary:
    container = replace(_engine(pod), ready=ready)
    return replace(pod, ready=ready, ready_changed_at=float(int(now)), containers=(container,))


def restarted(pod: PodSummary, exit_code: int, now: float, reason: str = "Error", log: str = "") -> PodSummary:
    """Its container ended, and the kubelet waits to start it again."""
    ended = Ended(exit_code, reason, log, float(int(now)))
    old = _engine(pod)
    container = replace(
        old, ready=False, running=False, restarts=old.restarts + 1, waiting="CrashLoopBackOff", last_ended=ended
    )
    return replace(made_ready(pod, False, now), phase="Running", containers=(container,))


def waiting(pod: PodSummary, reason: str, message: str = "") -> PodSummary:
    container = replace(_engine(pod), running=False, ready=False, waiting=reason, waiting_message=message)
    return replace(pod, containers=(container,))


def failed(pod: PodSummary, now: float, reason: str = "", exit_code: int = 137) -> PodSummary:
    """The pod is over: evicted, or its node shut down."""
    ended = Ended(exit_code, "Error", "", float(int(now)))
    container = replace(_engine(pod), running=False, ready=False, waiting="", ended=ended)
    return replace(made_ready(pod, False, now), phase="Failed", phase_reason=reason, containers=(container,))


def deleted(pod: PodSummary, grace: int, now: float, disruption: str = "") -> PodSummary:
    """Somebody asked for its deletion."""
    return replace(pod, gone_at=float(int(now)) + grace, grace=grace, disruption=disruption)


def _engine(pod: PodSummary) -> ContainerSummary:
    return pod.containers[0] if pod.containers else CREATING
