"""Observed: what is there, as a summary. Made by ``observe`` from objects and from heads' answers; compared by
``decide``.

4,000 pods must fit in tens of megabytes, so a pod is only what decisions need. Times are seconds since 1970 as the API
server wrote them (whole seconds).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stageline_operator.api.state import HeadState
from stageline_operator.decide.actions import Ref
from stageline_operator.plan.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended (``state.terminated`` or ``lastState.terminated``).

    Attributes:
        exit_code: as the kubelet gives it; 137 is a kill -9.
        reason: the kubelet's word (OOMKilled, Error, Completed, ContainerStatusUnknown).
        log_tail: ``message``: the termination message or the last log lines; at most MAX_LOG_TAIL characters, the last.
    """

    exit_code: int
    reason: str
    log_tail: str
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class ContainerSummary:
    """A container of a pod.

    Attributes:
        running: it runs now.
        waiting: the kubelet's word for why it does not (ImagePullBackOff, CrashLoopBackOff, ContainerCreating); ""
        else. waiting_message: the kubelet's sentence for it.
        ended: how it ended, when it has now; with ``restarts`` > 0, ``last_ended`` is the time before.
    """

    name: str
    ready: bool
    running: bool
    restarts: int
    waiting: str
    waiting_message: str
    ended: Ended | None
    last_ended: Ended | None


@dataclass(frozen=True, slots=True)
class PodSummary:
    """A pod of a replica. Numbers are parsed from its labels; a pod of ours whose labels are not those that it was made
    with is a ``Stray``.

    Attributes:
        stage: None for a head.
        owner_uid: uid of its controlling owner; "" when it has none. Not the resource's uid: not ours.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        phase_reason, phase_message: ``status.reason`` and ``status.message`` (Evicted, NodeLost, …).
        ready: its Ready condition is True; ``ready_changed_at``: when that last changed.
        scheduled_at: when it got its node; None while it has none.
        unschedulable: the scheduler's message while it finds no place; "" else.
        gone_at: deletionTimestamp; None while nobody asked for its deletion. A kubelet that lives ends it by then.
        grace: ``deletionGracePeriodSeconds``; already part of ``gone_at``.
        disruption: reason of its DisruptionTarget condition (DeletionByTaintManager, PreemptionByScheduler, …); ""
        else.
    """

    name: str
    uid: str
    resource_version: str
    owner_uid: str
    replica: int
    stage: int | None
    incarnation: int
    revision: str
    epoch: int
    created_at: float
    phase: str
    phase_reason: str
    phase_message: str
    ready: bool
    ready_changed_at: float | None
    scheduled_at: float | None
    unschedulable: str
    node: str
    address: str
    gone_at: float | None
    grace: int | None
    disruption: str
    containers: tuple[ContainerSummary, ...]

    @property
    def is_head(self) -> bool:
        """It is a head's pod, not a stage's."""
        return self.stage is None

    @property
    def has_ended(self) -> bool:
        """Its containers ended for good: no process of it runs any more, so its successor may."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Stray:
    """A pod of ours whose labels somebody changed, so that they do not say any more what its name says, or that the
    watch does not see it any more. Services and policies miss it too: it is deleted, and another made in its stead.

    Attributes:
        node, gone_at, grace: as in PodSummary.
    """

    name: str
    uid: str
    resource_version: str
    node: str
    gone_at: float | None
    grace: int | None


@dataclass(frozen=True, slots=True)
class Child:
    """Any child but a pod.

    Attributes:
        body: spec and metadata as the server has them, without status and managedFields; compared leaf by leaf.
        ours: paths that FIELD_MANAGER owns, as ``("spec", "ports", 'k:{"port":8000}', "targetPort")`` in the notation
            of managedFields without the ``f:``.
    """

    api_version: str
    kind: str
    name: str
    uid: str
    resource_version: str
    owner_uid: str
    deleting: bool
    body: dict[str, Any]
    ours: frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An action that the API server refused the last time that it was tried, and that no success followed."""

    ref: Ref
    message: str
    """The server's own: of admission, quota, validation."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """An object that has a name we need, or our labels, and is not ours."""

    kind: str
    name: str
    owner: str
    """``kind/name`` of its controlling owner; "" when it has none."""


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What a replica's head last said.

    Attributes:
        pod_uid: of the head pod that was asked; an answer of an earlier incarnation says nothing.
        state: None when it did not answer; ``error`` says why.
    """

    replica: int
    pod_uid: str
    asked_at: float
    state: HeadState | None
    error: str


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything that is there for one resource.

    Attributes:
        strays: pods that no replica can count as its own.
        heads: by replica number.
        refusals: what the API server refuses; told in the status, and tried again, as long as it is wanted.
        contested: children that differ again after two applies of the same body: told in the status, and left alone
            until they or the spec change.
        secret_exists: this process made the group Secret, or was told that it exists; it is never read.
    """

    cluster: Cluster
    pods: tuple[PodSummary, ...] = ()
    strays: tuple[Stray, ...] = ()
    children: tuple[Child, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    heads: dict[int, HeadAnswer] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    contested: tuple[Ref, ...] = ()
    secret_exists: bool = False
