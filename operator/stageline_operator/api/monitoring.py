"""How Prometheus finds the metrics, and where traces go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.reserved import RESERVED_LABEL_PREFIX
from stageline_operator.api.values import LabelKey, LabelValue, Text

TracesEndpoint = Annotated[
    str,
    Text(
        max_length=512,
        # No dollar sign: in arguments of containers it begins a variable.
        pattern=r"https?://[a-zA-Z0-9._-]+(:[0-9]{1,5})?(/[a-zA-Z0-9._~%/?&=:@+-]*)?",
        remedy="write a URL such as http://collector.monitoring:4318/v1/traces",
    ),
]


class Monitoring(ApiModel):
    """How Prometheus finds the metrics of the replicas, and where traces of requests go."""

    pod_monitor: Literal["auto", "none"] = "auto"
    """`auto`: a PodMonitor when the cluster has the Prometheus operator's CRD. `none`: no PodMonitor."""
    interval_seconds: Annotated[int, Field(ge=5, le=3600)] = 15
    """Seconds between two scrapes."""
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """More labels of the PodMonitor: many Prometheus installations select by one."""
    metrics_compat: Literal["none", "vllm"] = "none"
    """`vllm`: export the metrics under vLLM's names too, for dashboards and gateways that know those. Heads carry it,
    so a change replaces all replicas."""
    otlp_traces_endpoint: TracesEndpoint | None = None
    """URL of a collector that gets a trace of each request by OTLP over HTTP, e.g.
    `http://collector.monitoring:4318/v1/traces`. Default: none. A change replaces all replicas, too."""

    rules = (
        Rule(
            "self.podMonitor != 'none' || !has(self.labels) || self.labels.size() == 0",
            "spec.monitoring.labels are those of a PodMonitor, and podMonitor is none; leave them out",
            lambda monitoring: monitoring.pod_monitor != "none" or not monitoring.labels,
        ),
        Rule(
            f"!has(self.labels) || !self.labels.exists(k, k.startsWith('{RESERVED_LABEL_PREFIX}')"
            " || k == 'app.kubernetes.io/managed-by')",
            f"spec.monitoring.labels: {RESERVED_LABEL_PREFIX}* and app.kubernetes.io/managed-by are the operator's;"
            " take other keys",
            lambda monitoring: (
                not any(
                    key.startswith(RESERVED_LABEL_PREFIX) or key == "app.kubernetes.io/managed-by"
                    for key in monitoring.labels
                )
            ),
        ),
    )
