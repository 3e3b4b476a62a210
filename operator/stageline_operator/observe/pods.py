"""A pod's body → PodSummary: only what decisions need, so that thousands fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stageline_operator.api import constants
from stageline_operator.decide.observed import ContainerSummary, Ended, PodSummary, Stray
from stageline_operator.observe.log_lines import readable
from stageline_operator.observe.times import seconds
from stageline_operator.plan import names
from stageline_operator.plan.spec import Owner

Body = Mapping[str, Any]


def summarize(pod: Body) -> PodSummary | Stray:
    """The summary of a pod; a Stray when its labels are not those that it was made with, as far as its name tells."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    labels = meta.get("labels") or {}
    owner = controller(meta)
    try:
        replica = int(labels[constants.LABEL_REPLICA])
        incarnation = int(labels[constants.LABEL_INCARNATION])
        is_head = labels[constants.LABEL_ROLE] == constants.ROLE_HEAD
        stage = None if is_head else int(labels[constants.LABEL_STAGE])
        epoch = int(labels.get(constants.LABEL_EPOCH, "0"))
        revision = labels[constants.LABEL_REVISION]
        is_watched = labels[constants.LABEL_MANAGED_BY] == constants.FIELD_MANAGER
    except (KeyError, ValueError):
        return _stray(pod)
    # A name cannot be changed: numbers that agree with it are ones that we gave.
    made = Owner(meta["namespace"], owner.get("name", ""), owner.get("uid", ""))
    name = (
        names.head_pod(made, replica, incarnation)
        if stage is None
        else names.stage_pod(made, replica, stage, incarnation)
    )
    if not is_watched or name != meta["name"]:
        return _stray(pod)
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    ready, scheduled = conditions.get("Ready", {}), conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    return PodSummary(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        owner_uid=owner.get("uid", ""),
        replica=replica,
        stage=stage,
        incarnation=incarnation,
        revision=revision,
        epoch=epoch,
        created_at=seconds(meta["creationTimestamp"]) or 0.0,
        phase=status.get("phase", "Pending"),
        phase_reason=status.get("reason", ""),
        phase_message=status.get("message", ""),
        ready=ready.get("status") == "True",
        ready_changed_at=seconds(ready.get("lastTransitionTime")),
        scheduled_at=seconds(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        node=spec.get("nodeName", ""),
        address=status.get("podIP", ""),
        gone_at=seconds(meta.get("deletionTimestamp")),
        grace=meta.get("deletionGracePeriodSeconds"),
        disruption=disruption.get("reason", "") if disruption.get("status") == "True" else "",
        containers=tuple(_container(each) for each in status.get("containerStatuses") or ()),
    )


def controller(metadata: Body) -> dict[str, str]:
    """The controlling owner's reference; {} when there is none."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            return dict(reference)
    return {}


def _stray(pod: Body) -> Stray:
    meta = pod["metadata"]
    return Stray(
        name=meta["name"],
        uid=meta["uid"],
        resource_version=meta["resourceVersion"],
        node=(pod.get("spec") or {}).get("nodeName", ""),
        gone_at=seconds(meta.get("deletionTimestamp")),
        grace=meta.get("deletionGracePeriodSeconds"),
    )


def _container(status: Body) -> ContainerSummary:
    state = status.get("state") or {}
    waiting = state.get("waiting") or {}
    return ContainerSummary(
        name=status["name"],
        ready=status.get("ready", False),
        running="running" in state,
        restarts=status.get("restartCount", 0),
        waiting=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        ended=_ended(state.get("terminated")),
        last_ended=_ended((status.get("lastState") or {}).get("terminated")),
    )


def _ended(terminated: Body | None) -> Ended | None:
    if terminated is None:
        return None
    return Ended(
        exit_code=terminated.get("exitCode", 0),
        reason=terminated.get("reason", ""),
        log_tail=readable(terminated.get("message", ""))[-constants.MAX_LOG_TAIL :],
        finished_at=seconds(terminated.get("finishedAt")),
    )
