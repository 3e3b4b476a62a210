"""What the API server offers: which gang schedulers and monitoring can be used. Found by discovery, never by
version."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the API server offers; from discovery, looked up again every few minutes.

    Attributes:
        native_gang: version of scheduling.k8s.io that has PodGroup (``v1beta1``, ``v1alpha3``, ``v1alpha2``); "" else.
        volcano, coscheduling, kueue, pod_monitor: that API is there.
    """

    native_gang: str = ""
    volcano: bool = False
    coscheduling: bool = False
    kueue: bool = False
    pod_monitor: bool = False
