"""Where pods of a replica are placed, and that they are placed together."""

from __future__ import annotations

from typing import Annotated, Literal

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.values import LabelKey, Name, ObjectName, Text

GangChoice = Literal["auto", "none", "native", "volcano", "coscheduling", "kueue"]


class Scheduling(ApiModel):
    """Where the pods of a replica are placed, and that they are placed together or not at all."""

    gang: GangChoice = "auto"
    """Who places all pods of a replica together: `native` (PodGroup of scheduling.k8s.io), `volcano`, `coscheduling`
    (scheduler-plugins), `kueue`, or `none`. `auto`: the first of native, volcano and coscheduling that the cluster has;
    volcano unless `schedulerName` is another, coscheduling only with a `schedulerName`. Immutable."""
    queue_name: Name | None = None
    """Queue of Volcano, or LocalQueue of Kueue. Needed with `gang: kueue`. Immutable."""
    topology_key: LabelKey | None = None
    """Node label whose value all stages of a replica must share, e.g. `topology.kubernetes.io/zone` or a rack's label.
    Default: no such rule."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of all pods. Default: the cluster's."""
    scheduler_name: Annotated[str, Text(253, 1, r"[-.A-Za-z0-9]+", "use letters, digits, '-' and '.'")] | None = None
    """Scheduler that places the pods. Needed with `gang: coscheduling`: the scheduler that has that plugin. Default:
    `volcano` with that gang scheduler, else the cluster's."""

    rules = (
        Rule(
            "self.gang == oldSelf.gang",
            "spec.scheduling.gang is immutable; delete the resource and create it anew",
            None,
            lambda old, new: old.gang == new.gang,
        ),
        Rule(
            "has(self.queueName) == has(oldSelf.queueName)"
            " && (!has(self.queueName) || self.queueName == oldSelf.queueName)",
            "spec.scheduling.queueName is immutable, also adding and removing it; delete the resource and create it"
            " anew",
            None,
            lambda old, new: old.queue_name == new.queue_name,
        ),
        Rule(
            "self.gang != 'kueue' || has(self.queueName)",
            "spec.scheduling.queueName: Kueue needs the name of a LocalQueue; add it",
            lambda scheduling: scheduling.gang != "kueue" or scheduling.queue_name is not None,
        ),
        Rule(
            "!has(self.queueName) || self.gang in ['kueue', 'volcano']",
            "spec.scheduling.queueName has an effect only with gang: kueue or gang: volcano; leave it out",
            lambda scheduling: scheduling.queue_name is None or scheduling.gang in ("kueue", "volcano"),
        ),
        Rule(
            "self.gang != 'volcano' || !has(self.schedulerName) || self.schedulerName == 'volcano'",
            "spec.scheduling.schedulerName: with gang: volcano its scheduler places the pods; leave it out",
            lambda scheduling: scheduling.gang != "volcano" or scheduling.scheduler_name in (None, "volcano"),
        ),
        Rule(
            "self.gang != 'coscheduling' || has(self.schedulerName)",
            "spec.scheduling.schedulerName: gang: coscheduling needs the name of the scheduler that has the plugin,"
            " since the default one would place the pods one by one; add it",
            lambda scheduling: scheduling.gang != "coscheduling" or scheduling.scheduler_name is not None,
        ),
    )
