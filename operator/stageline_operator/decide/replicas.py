"""Observed → replicas: the pods and objects of each number, with what the status remembers of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from stageline_operator.api.conditions import ReplicaPhase
from stageline_operator.api.constants import LABEL_REPLICA, LABEL_REVISION
from stageline_operator.api.status import PodStatus, ReplicaStatus
from stageline_operator.decide.observed import Child, HeadAnswer, Observed, PodSummary
from stageline_operator.decide.times import to_seconds
from stageline_operator.plan.plan import Plan, RevisionPlan
from stageline_operator.plan.spec import Spec


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one pod in a replica: its head, or one of its stages.

    Attributes:
        stage: None for the head.
        pods: all that are there, by incarnation; at most one of them is live when nothing is amiss.
        memory: what the status says of it.
    """

    stage: int | None
    pods: tuple[PodSummary, ...]
    memory: PodStatus

    @property
    def live(self) -> PodSummary | None:
        """The pod that does the work, or will: neither ended nor being deleted."""
        return next((pod for pod in reversed(self.pods) if not pod.has_ended and pod.gone_at is None), None)

    @property
    def next_incarnation(self) -> int:
        """Of the pod that would be made next; a name that was used is never used again."""
        seen = [pod.incarnation for pod in self.pods]
        if self.memory.pod or self.memory.last_failure is not None:
            seen.append(self.memory.incarnation)
        return max(seen, default=-1) + 1

    @property
    def title(self) -> str:
        """For messages."""
        return "head" if self.stage is None else f"stage {self.stage}"


@dataclass(frozen=True, slots=True)
class Replica:
    """One pipeline replica: everything that carries its number.

    Attributes:
        plan: what its pods are made from; None when nothing knows its revision any more: it is not healed.
        slots: the head's, then the stages'.
        strays: pods that no slot has a place for; somebody changed their labels.
        answer: what its head said, when it was the one that is there now.
    """

    number: int
    revision: str
    plan: RevisionPlan | None
    created_at: float
    slots: tuple[Slot, ...]
    strays: tuple[PodSummary, ...]
    children: tuple[Child, ...]
    memory: ReplicaStatus | None
    answer: HeadAnswer | None

    @property
    def pods(self) -> tuple[PodSummary, ...]:
        """All of them, also those that end."""
        return (*(pod for slot in self.slots for pod in slot.pods), *self.strays)

    @property
    def head(self) -> Slot:
        """The head's slot."""
        return self.slots[0]

    @property
    def is_empty(self) -> bool:
        """It has no pod; only objects or the status tell of it."""
        return not self.pods

    @property
    def is_failed(self) -> bool:
        """It was given up; the status says so, and nothing heals it."""
        return self.memory is not None and self.memory.phase is ReplicaPhase.FAILED

    @property
    def is_terminal(self) -> bool:
        """It was given up, and only a change of the spec makes another in its stead."""
        return self.is_failed and self.memory is not None and self.memory.next_restart is None

    @property
    def is_leaving(self) -> bool:
        """All its pods are being deleted. It is never healed: stages of a new head could not tell which of two to
        join."""
        return not self.is_empty and all(pod.gone_at is not None for pod in self.pods)

    @property
    def is_ready(self) -> bool:
        """Its head is: a token went through all stages."""
        head = self.head.live
        return head is not None and head.ready

    @property
    def has_told(self) -> bool:
        """Its head was asked since it is ready: what it said of epoch, layers and settings is no news of yesterday."""
        head, answer = self.head.live, self.answer
        if head is None or answer is None:
            return False
        is_later = answer.asked_at > (head.ready_changed_at or 0.0) + 1.0  # pods tell whole seconds
        return is_later or (answer.state is not None and answer.state.ready)

    @property
    def is_placed(self) -> bool:
        """All its pods have nodes."""
        return all(slot.live is not None and slot.live.scheduled_at is not None for slot in self.slots)


def replicas(spec: Spec, plan: Plan, observed: Observed) -> tuple[Replica, ...]:
    """All numbers that a pod, an object or the status tells of, in order."""
    pods: dict[int, list[PodSummary]] = defaultdict(list)
    for pod in observed.pods:
        pods[pod.replica].append(pod)
    children: dict[int, list[Child]] = defaultdict(list)
    for child in observed.children:
        number = labels(child).get(LABEL_REPLICA, "")
        if number.isdecimal():
            children[int(number)].append(child)
    memories = {memory.replica: memory for memory in spec.status.replica_list}
    return tuple(
        _replica(number, pods[number], children[number], memories.get(number), plan, observed)
        for number in sorted({*pods, *children, *memories})
    )


def labels(child: Child) -> dict[str, str]:
    """Labels of a child."""
    found: dict[str, str] = child.body.get("metadata", {}).get("labels") or {}
    return found


def _replica(
    number: int,
    pods: list[PodSummary],
    children: list[Child],
    memory: ReplicaStatus | None,
    plan: Plan,
    observed: Observed,
) -> Replica:
    revision = _revision(pods, children, memory)
    known = plan.revision(revision)
    stages = _stage_numbers(known, pods)
    slots = [_slot(stage, pods, revision, memory) for stage in (None, *stages)]
    placed = {pod.name for slot in slots for pod in slot.pods}
    replica = Replica(
        number=number,
        revision=revision,
        plan=known,
        created_at=_created_at(pods, memory),
        slots=tuple(slots),
        strays=tuple(pod for pod in pods if pod.name not in placed),
        children=tuple(children),
        memory=memory,
        answer=None,
    )
    head, answer = replica.head.live, observed.heads.get(number)
    if head is None or answer is None or answer.pod_uid != head.uid:
        return replica
    return replace(replica, answer=answer)


def _revision(pods: Iterable[PodSummary], children: Iterable[Child], memory: ReplicaStatus | None) -> str:
    """Objects of the replica first: a pod's label can be changed without being put back."""
    for child in children:
        if revision := labels(child).get(LABEL_REVISION):
            return revision
    if memory is not None:
        return memory.revision
    return min(pods, key=lambda pod: (pod.created_at, pod.name)).revision


def _stage_numbers(plan: RevisionPlan | None, pods: Iterable[PodSummary]) -> list[int]:
    if plan is not None:
        return list(range(len(plan.stages)))
    return sorted({pod.stage for pod in pods if pod.stage is not None})


def _slot(stage: int | None, pods: Iterable[PodSummary], revision: str, memory: ReplicaStatus | None) -> Slot:
    mine = [pod for pod in pods if pod.stage == stage and pod.revision == revision]
    remembered = PodStatus()
    if memory is not None:
        remembered = (
            memory.head if stage is None else next((each for each in memory.stages if each.stage == stage), PodStatus())
        )
    return Slot(stage, tuple(sorted(mine, key=lambda pod: pod.incarnation)), remembered)


def _created_at(pods: Iterable[PodSummary], memory: ReplicaStatus | None) -> float:
    if memory is not None:
        return to_seconds(memory.created)
    return min((pod.created_at for pod in pods), default=float("inf"))
