"""What a test may have the containers of a fake node's pod do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Pod = dict[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """One run of a pod's containers, from start to end. Times are seconds; None means never."""

    starts_after: float | None = 0.0
    """From being bound, or from the end of the run before, until the containers run."""
    waiting_reason: str = "ContainerCreating"
    """Shown until then: "ErrImagePull", "CreateContainerConfigError", …"""
    waiting_message: str = ""
    ready_after: float | None = 0.0
    """From the start of the containers until the pod is Ready."""
    ends_after: float | None = None
    """From the start until the first container ends by itself; what follows is the pod's restartPolicy."""
    exit_code: int = 1
    exit_reason: str = ""
    """"OOMKilled", …; by default "Completed" for exit code 0 and "Error" for others."""
    log: str = ""
    """The end of its log: the termination message, as FallbackToLogsOnError gives it."""
    stops_after: float = 0.0
    """From the pod's deletion until its containers have ended; the pod's grace period bounds it."""
    stop_exit_code: int = 0


READY = Behaviour()
"""Runs and is Ready at once, until it is deleted."""

Script = Callable[[Pod, int], Behaviour]
"""From a pod and its restart count so far to what its next run does."""


def always(behaviour: Behaviour) -> Script:
    """The same in each run of each pod."""
    return lambda pod, restarts: behaviour
