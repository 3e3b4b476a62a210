"""Expressions that several panels and alerts are made of. Metrics: docs/metrics.md, docs/kubernetes.md."""

from __future__ import annotations

from typing import Final

from dashboards.board import Query, Variable

CHOSEN: Final = 'namespace=~"$namespace",stageline_dev_name=~"$deployment",model_name=~"$model"'
"""Series of the deployments that are chosen. The labels of a pod come from the operator's PodMonitor."""
BY_DEPLOYMENT: Final = "namespace, stageline_dev_name"
DEPLOYMENT: Final = "{{namespace}}/{{stageline_dev_name}}"
REPLICA: Final = "{{stageline_dev_name}}-{{stageline_dev_replica}}"
BY_STAGE: Final = "namespace, stageline_dev_name, stageline_dev_replica, stage"
STAGE: Final = f"{REPLICA} stage {{{{stage}}}}"

ENGINE_VARIABLES: Final = (
    Variable("namespace", "namespace", "stageline_epoch"),
    Variable("deployment", "stageline_dev_name", 'stageline_epoch{namespace=~"$namespace"}'),
    Variable("model", "model_name", 'stageline_epoch{namespace=~"$namespace",stageline_dev_name=~"$deployment"}'),
)


def total(metric: str, by: str = BY_DEPLOYMENT, more: str = "") -> str:
    """A gauge, summed."""
    return f"sum by ({by}) ({metric}{{{_join(more)}}})"


def rate(metric: str, by: str = BY_DEPLOYMENT, more: str = "") -> str:
    """What a counter grows by in a second, summed."""
    return f"sum by ({by}) (rate({metric}{{{_join(more)}}}[$__rate_interval]))"


def share(metric: str, of: str, by: str = BY_DEPLOYMENT, more: str = "") -> str:
    """Growth of one counter over the growth of another."""
    return f"{rate(metric, by, more)} / {rate(of, by)}"


def quantiles(histogram: str) -> list[Query]:
    """p50, p95 and p99 of a histogram, for each deployment."""
    return [
        Query(f"histogram_quantile({quantile}, {rate(histogram + '_bucket', f'le, {BY_DEPLOYMENT}')})", legend)
        for quantile, legend in (
            (0.5, f"p50 {DEPLOYMENT}"),
            (0.95, f"p95 {DEPLOYMENT}"),
            (0.99, f"p99 {DEPLOYMENT}"),
        )
    ]


def _join(more: str) -> str:
    return f"{CHOSEN},{more}" if more else CHOSEN
