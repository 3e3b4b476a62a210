"""The PodMonitor, for clusters with the Prometheus operator."""

from __future__ import annotations

import re
from typing import Final

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata, select_resource
from stageline_operator.plan import names
from stageline_operator.plan.plan import Plan

POD_MONITOR: Final = ("monitoring.coreos.com/v1", "PodMonitor")
_ROLE: Final = "__meta_kubernetes_pod_label_" + re.sub("[^a-zA-Z0-9_]", "_", c.LABEL_ROLE)
"""What Prometheus calls the label."""


def pod_monitor(plan: Plan) -> Body:
    """Scrapes heads at their API port, and stages at their status port, where a head has no metrics."""
    interval = f"{plan.monitoring.interval_seconds}s"
    return {
        "apiVersion": POD_MONITOR[0],
        "kind": POD_MONITOR[1],
        "metadata": metadata(plan.owner, names.pod_monitor(plan.owner), plan.monitoring.labels),
        "spec": {
            "selector": {"matchLabels": select_resource(plan.owner)},
            "podTargetLabels": [c.LABEL_NAME, c.LABEL_REPLICA, c.LABEL_REVISION],
            "podMetricsEndpoints": [
                {"port": c.PORT_NAME_API, "path": c.PATH_METRICS, "interval": interval},
                {
                    "port": c.PORT_NAME_STATUS,
                    "path": c.PATH_METRICS,
                    "interval": interval,
                    "relabelings": [{"sourceLabels": [_ROLE], "regex": c.ROLE_STAGE, "action": "keep"}],
                },
            ],
        },
    }
