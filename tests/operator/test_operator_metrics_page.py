"""docs/kubernetes.md lists the operator's metrics as a scrape shows them."""

from __future__ import annotations

from pathlib import Path

from stageline_operator.api.conditions import Phase
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.runtime.metrics import PREFIX, Metrics

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()


def rows() -> list[str]:
    """The table's rows, from metrics that all have a sample."""
    metrics = Metrics()
    metrics.wrote("create", "Pod")
    metrics.errors.labels("ConflictError").inc()
    metrics.namespace_refused.labels("team").set(1)
    metrics.show(("ns", "demo"), InferenceDeploymentStatus(phase=Phase.READY), 1)
    found = []
    for family in metrics.registry.collect():
        if family.name.startswith(PREFIX):
            names = [f"`{label}`" for label in {key: 0 for sample in family.samples for key in sample.labels}]
            labels = ", ".join(name for name in names if name != "`le`")
            name = family.name + ("_total" if family.type == "counter" else "")
            found.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return sorted(found)


def test_the_page_lists_each_metric() -> None:
    table = [line for line in PAGE.splitlines() if line.startswith(f"| `{PREFIX}_")]
    assert table == rows()
