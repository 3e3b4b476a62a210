"""Draws a dashboard's panels from what Prometheus answered: for docs/, where no Grafana is at hand.

``PICTURES=write pytest tests/contract/test_dashboards.py tests/operator/test_dashboard.py`` draws them anew.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from support import boards
from support.kube.waiting import wait_until
from support.prometheus import Prometheus

FOLDER = Path(__file__).parents[2] / "docs/pictures"
SECONDS = 90
COLUMNS = 3
SCALES = {"percentunit": (100.0, "%"), "bytes": (1 / 2**20, "MiB"), "Bps": (1 / 2**10, "KiB/s"), "s": (1000.0, "ms")}


def draw_if_asked(name: str, board: dict[str, Any], prometheus: Prometheus) -> None:
    """Write docs/pictures/NAME.png from the last minute and a half, which is waited for."""
    if os.environ.get("PICTURES") != "write":
        return
    wait_until(lambda: prometheus.age() >= SECONDS, "enough to draw", patience=2 * SECONDS, interval=1)
    _draw(board, prometheus).savefig(FOLDER / f"{name}.png", dpi=80)


def _draw(board: dict[str, Any], prometheus: Prometheus) -> Any:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    panels = boards.panels(board)
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(16, 3.2 * rows), layout="constrained")
    figure.suptitle(board["title"])
    end = time.time()
    for axes, panel in zip(figure.subplots(rows, COLUMNS, squeeze=False).flat, panels, strict=False):
        axes.set_title(panel["title"], fontsize=10)
        factor, unit = SCALES.get(panel["fieldConfig"]["defaults"]["unit"], (1.0, ""))
        for target, expression in zip(panel["targets"], boards.of_panel(board, panel), strict=True):
            for series in prometheus.query_range(expression, end - SECONDS, end, 1):
                points = [(at - end, float(value) * factor) for at, value in series["values"] if value != "NaN"]
                if points:
                    axes.plot(*zip(*points, strict=True), label=_legend(target["legendFormat"], series["metric"]))
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0, top=max(axes.get_ylim()[1] * 1.25, 1e-9))
        axes.set_xlabel("s")
        axes.legend(fontsize=7, loc="upper left")
    for axes in figure.axes[len(panels) :]:
        axes.set_axis_off()
    return figure


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)
