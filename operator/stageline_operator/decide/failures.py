"""How a pod ended, and why it does not start: from the kubelet's words to a cause."""

from __future__ import annotations

from typing import Final

from stageline_operator.api.conditions import EXIT_COMMUNICATION, EXIT_CONFIGURATION, Cause
from stageline_operator.api.status import Failure
from stageline_operator.decide.observed import ContainerSummary, Ended, PodSummary
from stageline_operator.decide.times import to_text

DELETED: Final = "Deleted"
"""Reason of a pod's end when nobody told another: it was deleted, or is simply not there any more."""
_CANNOT_RUN: Final = ("ContainerCannotRun", "StartError", "RunContainerError")
"""The kubelet's words for a container whose command or mount is wrong."""
_IMAGE: Final = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")
_CONFIGURATION: Final = ("CreateContainerConfigError", "CreateContainerError", *_CANNOT_RUN)


def end_of(pod: PodSummary) -> Failure:
    """How a pod ended that has ended, or that somebody deletes."""
    container = _engine(pod)
    ended = None if container is None else container.ended or container.last_ended
    told = pod.disruption or pod.phase_reason
    if pod.gone_at is not None or told:
        at = _time_of(ended) or _deleted_at(pod) or pod.created_at
        return _failure(pod, Cause.NODE_LOST, told or DELETED, at, ended)
    if ended is None:
        return _failure(pod, Cause.CRASH, pod.phase, pod.created_at, None)
    return _failure(pod, _cause(ended), ended.reason, _time_of(ended) or pod.created_at, ended)


def vanished(name: str, now: float) -> Failure:
    """The end of a pod that is not there any more, when nobody saw it end."""
    return Failure(cause=Cause.NODE_LOST, pod=name, time=to_text(now), reason=DELETED)


def latest_restart(pod: PodSummary) -> Failure | None:
    """Why the kubelet last restarted a pod's container; None when it never did."""
    container = _engine(pod)
    if container is None or not container.restarts or container.last_ended is None:
        return None
    ended = container.last_ended
    return _failure(pod, _cause(ended), ended.reason, _time_of(ended) or pod.created_at, ended)


def restarts_of(pod: PodSummary) -> int:
    """How often the kubelet restarted its container."""
    container = _engine(pod)
    return 0 if container is None else container.restarts


def cannot_start(pod: PodSummary, image: str) -> str:
    """Why a container cannot be started, in a sentence; "" when it can.

    The kubelet's words for an image that cannot be pulled change with each try; ours do not, so that the status is not
    written each time.
    """
    for container in pod.containers:
        if container.waiting in _IMAGE:
            return f"the image {image} cannot be pulled; correct spec.image or add podTemplate.imagePullSecrets"
        if container.waiting in _CONFIGURATION:
            return f"{container.waiting}: {container.waiting_message}"
    return ""


def misses_secret(pod: PodSummary, secret: str) -> bool:
    """The kubelet says that a Secret is not there."""
    return any(
        container.waiting == "CreateContainerConfigError" and secret in container.waiting_message
        for container in pod.containers
    )


def describe(failure: Failure) -> str:
    """One line for messages and Events."""
    parts = [failure.cause.value]
    if failure.reason and failure.reason != failure.cause.value:
        parts.append(failure.reason)
    if failure.exit_code is not None:
        parts.append(f"exit code {failure.exit_code}")
    return ", ".join(parts)


def _engine(pod: PodSummary) -> ContainerSummary | None:
    return pod.containers[0] if pod.containers else None


def _cause(ended: Ended) -> Cause:
    if ended.reason == "OOMKilled":
        return Cause.OUT_OF_MEMORY
    if ended.reason == "ContainerStatusUnknown":
        return Cause.NODE_LOST
    if ended.exit_code == EXIT_CONFIGURATION or ended.reason in _CANNOT_RUN:
        return Cause.CONFIGURATION
    if ended.exit_code == EXIT_COMMUNICATION:
        return Cause.COMMUNICATION
    return Cause.CRASH


def _time_of(ended: Ended | None) -> float | None:
    return None if ended is None else ended.finished_at


def _deleted_at(pod: PodSummary) -> float | None:
    return None if pod.gone_at is None else pod.gone_at - (pod.grace or 0)


def _failure(pod: PodSummary, cause: Cause, reason: str, at: float, ended: Ended | None) -> Failure:
    return Failure(
        cause=cause,
        pod=pod.name,
        time=to_text(at),
        exit_code=None if ended is None else ended.exit_code,
        reason=reason[:253],
        log_tail="" if ended is None else ended.log_tail,
    )
