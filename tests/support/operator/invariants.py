"""What must hold for every decision, whatever happened before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from stageline_operator.api import constants as c
from stageline_operator.decide.actions import Action, Create, Decision, Delete
from stageline_operator.decide.observed import PodSummary
from stageline_operator.plan.spec import Spec


def check(decision: Decision, spec: Spec, revision: str, pods: Iterable[PodSummary]) -> None:
    """Check a decision against the pods that it was made for.

    Args:
        revision: the current one.
    """
    pods = list(pods)
    created = [action for action in decision.actions if isinstance(action, Create)]
    if spec.deleting:
        assert not created, "something is created for a resource that is being deleted"
    _revisions_never_mix(created, pods)
    _slots_are_filled_once(created, pods)
    _limits_of_the_rollout_hold(decision.actions, created, spec, revision, pods)


def ready_replicas(pods: Iterable[PodSummary]) -> set[int]:
    return {pod.replica for pod in pods if pod.is_head and pod.ready and pod.gone_at is None and not pod.has_ended}


def _revisions_never_mix(created: Iterable[Create], pods: Iterable[PodSummary]) -> None:
    revisions = defaultdict(set)
    for pod in pods:
        revisions[pod.replica].add(pod.revision)
    for action in created:
        labels = action.body["metadata"]["labels"]
        revisions[int(labels[c.LABEL_REPLICA])].add(labels[c.LABEL_REVISION])
    mixed = {number: found for number, found in revisions.items() if len(found) > 1}
    assert not mixed, f"replicas mix revisions: {mixed}"


def _slots_are_filled_once(created: Iterable[Create], pods: Iterable[PodSummary]) -> None:
    live = [
        (str(pod.replica), "" if pod.stage is None else str(pod.stage))
        for pod in pods
        if pod.gone_at is None and not pod.has_ended
    ]
    for action in created:
        labels = action.body["metadata"]["labels"]
        live.append((labels[c.LABEL_REPLICA], labels.get(c.LABEL_STAGE, "")))
    assert len(live) == len(set(live)), f"a slot has two live pods: {sorted(live)}"


def _limits_of_the_rollout_hold(
    actions: Iterable[Action], created: Iterable[Create], spec: Spec, revision: str, pods: list[PodSummary]
) -> None:
    rollout, wanted = spec.wanted.rollout, spec.wanted.replicas
    existing = {pod.replica for pod in pods}
    deleted = {action.ref.name for action in actions if isinstance(action, Delete)}
    living = {pod.replica for pod in pods if pod.gone_at is None and pod.name not in deleted}
    born = {int(action.body["metadata"]["labels"][c.LABEL_REPLICA]) for action in created} - existing
    has_old = any(pod.revision != revision for pod in pods if pod.replica in living)
    if born and has_old and not rollout.paused:
        assert len(existing | born) <= wanted + rollout.max_surge, f"more than surge allows: {existing | born}"
    if born:
        assert len(living | born) <= wanted + rollout.max_surge, f"more than wanted: {living | born}"
    ready = ready_replicas(pods)
    left = ready_replicas(pod for pod in pods if pod.name not in deleted)
    least = min(len(ready), wanted - rollout.max_unavailable)
    assert spec.deleting or len(left) >= least, f"ready {ready} → {left}, and {least} must stay"
