"""Where pods of a replica are placed, and that they are placed together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, LabelKey, Name, ObjectName

GangChoice = Literal["auto", "none", "native", "volcano", "coscheduling", "kueue"]


class Scheduling(ApiModel):
    """Where the pods of a replica are placed, and that they are placed together or not at all."""

    gang: GangChoice = "auto"
    """Who places all pods of a replica together: `native` (PodGroup of scheduling.k8s.io), `volcano`, `coscheduling`
    (scheduler-plugins), `kueue`, or `none`. `auto`: the first of native, volcano and coscheduling that the cluster has.
    Immutable."""
    queue_name: Name | None = None
    """Queue of Volcano, or LocalQueue of Kueue. Needed with `gang: kueue`. Immutable."""
    topology_key: LabelKey | None = None
    """Node label whose value all pods of a replica must share, e.g. `topology.kubernetes.io/zone` or a rack's label.
    Default: no such rule."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of all pods. Default: the cluster's."""
    scheduler_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Scheduler that places the pods. Default: `volcano` with that gang scheduler, else the cluster's."""
