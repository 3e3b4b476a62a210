"""The PodMonitor, for clusters with the Prometheus operator."""

from __future__ import annotations

from typing import Final

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata, select_heads
from stageline_operator.plan import names
from stageline_operator.plan.plan import Plan

POD_MONITOR: Final = ("monitoring.coreos.com/v1", "PodMonitor")


def pod_monitor(plan: Plan) -> Body:
    """Scrapes all heads: they have the metrics of their stages."""
    return {
        "apiVersion": POD_MONITOR[0],
        "kind": POD_MONITOR[1],
        "metadata": metadata(plan.owner, names.pod_monitor(plan.owner), plan.monitoring.labels),
        "spec": {
            "selector": {"matchLabels": select_heads(plan.owner)},
            "podTargetLabels": [c.LABEL_NAME, c.LABEL_REPLICA, c.LABEL_REVISION],
            "podMetricsEndpoints": [
                {
                    "port": c.PORT_NAME_API,
                    "path": c.PATH_METRICS,
                    "interval": f"{plan.monitoring.interval_seconds}s",
                }
            ],
        },
    }
