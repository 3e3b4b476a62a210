"""The chart's dashboards as Prometheus has to answer them."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from support.kube.waiting import wait_until
from support.prometheus import Prometheus

FILES = Path(__file__).parents[2] / "charts/stageline/files/dashboards"
RANGES = {"percentunit": (0.0, 1.05)}
"""What values of a unit can be."""


def read(name: str) -> dict[str, Any]:
    """A dashboard's JSON."""
    board: dict[str, Any] = json.loads((FILES / f"stageline-{name}.json").read_text())
    return board


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def of_panel(board: dict[str, Any], panel: dict[str, Any]) -> list[str]:
    """A panel's expressions, with all values of all variables chosen, over 5 seconds."""
    names = [variable["name"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    return [_filled_in(target["expr"], names) for target in panel["targets"]]


def expressions(board: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(title, unit, expression) of each query."""
    return [
        (panel["title"], panel["fieldConfig"]["defaults"]["unit"], expression)
        for panel in panels(board)
        for expression in of_panel(board, panel)
    ]


def assert_shows_data(board: dict[str, Any], prometheus: Prometheus) -> None:
    """Each query parses, returns numbers, and numbers that its unit can have; each variable has a value."""
    for title, unit, expression in expressions(board):
        wait_until(partial(_numbers, prometheus, expression), f"{title}: {expression} has data")
        least, most = RANGES.get(unit, (0.0, float("inf")))
        assert all(least <= value <= most for value in _numbers(prometheus, expression)), (title, unit)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
            assert prometheus.label_values(_filled_in(metric, ["namespace", "deployment"]), label), variable["name"]


def _numbers(prometheus: Prometheus, expression: str) -> list[float]:
    # Not a number: nothing happened in the interval, as between two scrapes.
    return [value for _, value in prometheus.query(expression) if value == value]


def _filled_in(expression: str, names: list[str]) -> str:
    for name in names:
        expression = expression.replace(f"${name}", ".*")
    return expression.replace("$__rate_interval", "5s")
