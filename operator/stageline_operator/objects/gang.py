"""Who places the pods of a replica together: chosen by discovery, marked on pods, and the group's own object."""

from __future__ import annotations

from dataclasses import dataclass

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata, replica_labels
from stageline_operator.objects.resources import total_requests
from stageline_operator.plan import names
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner

NONE = "none"
VOLCANO_API = "scheduling.volcano.sh/v1beta1"
COSCHEDULING_API = "scheduling.x-k8s.io/v1alpha1"
POD_GROUP = "PodGroup"

VOLCANO_GROUP = "scheduling.k8s.io/group-name"
"""Volcano's annotation on pods."""
COSCHEDULING_GROUP = "scheduling.x-k8s.io/pod-group"
"""scheduler-plugins' label on pods."""
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
KUEUE_GROUP = "kueue.x-k8s.io/pod-group-name"
KUEUE_COUNT = "kueue.x-k8s.io/pod-group-total-count"
KUEUE_SERVING = "kueue.x-k8s.io/pod-group-serving"
"""Kueue: the pods of this group have no end, and a pod that fails is replaced."""


@dataclass(frozen=True, slots=True)
class Gang:
    """Who places a replica's pods together.

    Attributes:
        name: native, volcano, coscheduling, kueue or none.
        is_here: the cluster has it; False when a person asked for one that is missing, or it was uninstalled.
        native_version: version of scheduling.k8s.io with PodGroup.
    """

    name: str
    is_here: bool = True
    native_version: str = ""


def resolve(asked: str, cluster: Cluster, scheduler: str | None) -> Gang:
    """``auto`` is the first that the cluster has and that fits ``scheduler``; any other choice is taken at its word.

    Volcano's gangs are placed by its own scheduler alone. Coscheduling is a plugin of a scheduler of any name: the
    cluster's default one does not look at its groups, so a person has to name the one that does. Kueue is never
    automatic, since it needs the name of a queue.

    Args:
        scheduler: ``spec.scheduling.schedulerName``.
    """
    here = _here(cluster)
    if asked == "auto":
        fits = {
            "native": True,
            "volcano": scheduler in (None, "volcano"),
            "coscheduling": scheduler not in (None, "volcano"),
            NONE: True,
        }
        asked = next(name for name in fits if fits[name] and here[name])
    return Gang(asked, here[asked], cluster.native_gang)


def mark_pod(body: Body, gang: Gang, plan: RevisionPlan, owner: Owner, replica: int) -> None:
    """Make a pod's body a member of its replica's group."""
    group = names.replica(owner, replica)
    labels, annotations = body["metadata"]["labels"], body["metadata"].setdefault("annotations", {})
    if gang.name == "native":
        body["spec"]["schedulingGroup"] = {"podGroupName": group}
    elif gang.name == "volcano":
        annotations[VOLCANO_GROUP] = group
        body["spec"]["schedulerName"] = "volcano"
    elif gang.name == "coscheduling":
        labels[COSCHEDULING_GROUP] = group
    elif gang.name == "kueue":
        labels[KUEUE_QUEUE] = plan.scheduling.queue_name or ""
        labels[KUEUE_GROUP] = group
        annotations[KUEUE_COUNT] = str(plan.pods_per_replica)
        annotations[KUEUE_SERVING] = "true"
    if not annotations:
        del body["metadata"]["annotations"]


def pod_group(gang: Gang, plan: RevisionPlan, owner: Owner, replica: int) -> Body | None:
    """The object that stands for a replica's pods; None where the gang scheduler needs none, or the cluster does not
    know such objects any more.

    The group counts head and stages: a head without stages serves nobody.
    """
    spec: Body
    if not gang.is_here:
        return None
    if gang.name == "native":
        api_version = f"scheduling.k8s.io/{gang.native_version}"
        spec = {"schedulingPolicy": {"gang": {"minCount": plan.pods_per_replica}}}
    elif gang.name == "volcano":
        api_version = VOLCANO_API
        spec = {"minMember": plan.pods_per_replica}
        if plan.scheduling.queue_name:
            spec["queue"] = plan.scheduling.queue_name
    elif gang.name == "coscheduling":
        api_version = COSCHEDULING_API
        spec = {"minMember": plan.pods_per_replica}
    else:
        return None
    if gang.name != "coscheduling" and plan.scheduling.priority_class_name:
        spec["priorityClassName"] = plan.scheduling.priority_class_name
    if gang.name != "native" and (least := total_requests((plan.head, *(stage.settings for stage in plan.stages)))):
        spec["minResources"] = least
    return {
        "apiVersion": api_version,
        "kind": POD_GROUP,
        "metadata": metadata(owner, names.replica(owner, replica), replica_labels(replica, plan.revision, gang.name)),
        "spec": spec,
    }


def gang_of(labels: dict[str, str], cluster: Cluster) -> Gang | None:
    """The gang scheduler that a replica was made for, from its objects' labels; None when they do not say.

    A pod that replaces another must join what the others joined, also when the cluster has got a better one since.
    """
    name = labels.get(c.LABEL_GANG)
    return None if name is None else Gang(name, _here(cluster).get(name, False), cluster.native_gang)


def _here(cluster: Cluster) -> dict[str, bool]:
    """Which gang schedulers the cluster has."""
    return {
        "native": bool(cluster.native_gang),
        "volcano": cluster.volcano,
        "coscheduling": cluster.coscheduling,
        "kueue": cluster.kueue,
        NONE: True,
    }
