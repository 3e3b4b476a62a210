"""Where pods are placed, and what they tolerate there."""

from __future__ import annotations

from typing import Final

from stageline_operator.api.pod_settings import PodSettings
from stageline_operator.objects.metadata import Body, select_stages
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner

NODE_LOST_TAINTS: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
"""Taints of a node that does not answer. Without a toleration of ours, pods would stay on it for five minutes."""
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"


def place(spec: Body, plan: RevisionPlan, owner: Owner, replica: int, settings: PodSettings, *, is_head: bool) -> None:
    """Put node selector, tolerations, affinity, scheduler and priority into a pod's ``spec``."""
    scheduling = plan.scheduling
    tolerations = [toleration.dump() for toleration in settings.tolerations]
    named = {toleration.key for toleration in settings.tolerations}
    tolerations += [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": plan.node_lost_seconds}
        for key in NODE_LOST_TAINTS
        if key not in named
    ]
    spec["tolerations"] = tolerations
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    affinity = {} if settings.affinity is None else settings.affinity.dump(exclude_defaults=True)
    if scheduling.topology_key is not None and not is_head:
        near = {"topologyKey": scheduling.topology_key, "labelSelector": {"matchLabels": select_stages(owner, replica)}}
        affinity.setdefault("podAffinity", {}).setdefault(_REQUIRED, []).append(near)
    if affinity:
        spec["affinity"] = affinity
    for key, value in (
        ("runtimeClassName", settings.runtime_class_name),
        ("schedulerName", scheduling.scheduler_name),
        ("priorityClassName", scheduling.priority_class_name),
    ):
        if value is not None:
            spec[key] = value
