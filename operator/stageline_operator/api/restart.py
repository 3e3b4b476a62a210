"""What happens when pods end: budget per cause, back-off, deadlines."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule

Budget = Annotated[int, Field(ge=0, le=1000)]
Seconds = Annotated[int, Field(ge=1, le=86400)]


class RestartBudget(ApiModel):
    """Restarts of pods of one replica that each cause may use; they come back after `resetSeconds` of being ready."""

    node_lost: Budget = 20
    """A node was lost, drained, or evicted the pod."""
    out_of_memory: Budget = 3
    """A container was ended for memory."""
    communication: Budget = 10
    """The engine ended because a peer did."""
    configuration: Budget = 1
    """The engine refused its arguments or the model, or the image cannot be pulled."""
    crash: Budget = 5
    """Anything else."""


class Restart(ApiModel):
    """What happens when pods end. A stage's pod is replaced alone, and the other stages keep their weights; a replica
    that is not ready again before its deadline is replaced as a whole; a cause that used up its budget ends in
    `Failed`."""

    budget: RestartBudget = RestartBudget()
    """Restarts of pods of one replica that each cause may use."""
    backoff_seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    """Seconds between a pod's end and its replacement, from the second one in a row of a cause on; doubled for each
    further one. The first is at once. A container that the kubelet restarts in its pod waits as the kubelet says."""
    max_backoff_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    """Longest back-off, in seconds."""
    reset_seconds: Seconds = 600
    """Seconds of being ready after which a replica's budget and back-off begin anew."""
    replica_deadline_seconds: Seconds = 1800
    """Seconds that a new replica may take until it is ready, after its pods are placed. Then it is given up."""
    recovery_deadline_seconds: Seconds = 600
    """Seconds that a replica may take to be ready again after a pod was replaced in it. Then it is given up for a new
    one."""
    node_lost_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that pods stay on a node that does not answer, before they are replaced. Pods carry it, so a change
    replaces all replicas."""

    rules = (
        Rule(
            "self.backoffSeconds <= self.maxBackoffSeconds",
            "spec.restart.backoffSeconds is above maxBackoffSeconds; lower it, or raise maxBackoffSeconds",
            lambda restart: restart.backoff_seconds <= restart.max_backoff_seconds,
        ),
    )
