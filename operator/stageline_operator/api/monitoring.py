"""How Prometheus finds the metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, LabelKey, LabelValue


class Monitoring(ApiModel):
    """How Prometheus finds the metrics of the replicas."""

    pod_monitor: Literal["auto", "none"] = "auto"
    """`auto`: a PodMonitor when the cluster has the Prometheus operator's CRD. `none`: no PodMonitor."""
    interval_seconds: Annotated[int, Field(ge=5, le=3600)] = 15
    """Seconds between two scrapes."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """More labels of the PodMonitor: many Prometheus installations select by one."""
    metrics_compat: Literal["none", "vllm"] = "none"
    """`vllm`: export the metrics under vLLM's names too, for dashboards and gateways that know those."""
