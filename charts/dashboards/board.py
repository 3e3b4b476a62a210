"""A dashboard as values, and as Grafana's JSON: what all three have in common is said here once.

Board ──▶ render (grafana-foundation-sdk) ──▶ JSON
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Literal

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig, VizLegendOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableRefresh,
)

Unit = Literal["short", "none", "s", "percentunit", "reqps", "ops", "bytes", "Bps", "tok/s"]
"""Grafana's names of units; ``tok/s`` is shown as it is written (``suffix:``)."""


@dataclass(frozen=True)
class Query:
    """One Prometheus expression; variables of the dashboard are written ``$name``."""

    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """Curves over time, or with ``now`` the newest value as a number."""

    title: str
    meaning: str
    """What a person reads from it, and what is good; Grafana shows it behind the panel's (i)."""
    unit: Unit
    queries: Sequence[Query]
    width: int = 8
    """Of the 24 that a dashboard has."""
    now: bool = False
    stacked: bool = False
    top: float | None = None
    """End of the axis where it is known, 1 for shares."""


@dataclass(frozen=True)
class Row:
    """Panels under a heading that asks what they answer."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: the values of ``label`` in the series of ``metric``, several or all."""

    name: str
    label: str
    metric: str


@dataclass(frozen=True)
class Board:
    """A whole dashboard."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    tags: Sequence[str] = field(default=("stageline",))


def render(board: Board) -> str:
    """Grafana's JSON of a board, with a newline at its end; equal boards give equal texts."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(list(board.tags))
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for variable in board.variables:
        built = built.with_variable(_variable(variable))
    for row in board.rows:
        built = built.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            built = built.with_panel(_number(panel) if panel.now else _curves(panel))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(built.build())), indent=2, sort_keys=True) + "\n"


def _variable(variable: Variable) -> dashboard.QueryVariable:
    # With ".*" for all, series without the label are shown too: a Prometheus that knows no Kubernetes sets none.
    return (
        dashboard.QueryVariable(variable.name)
        .label(variable.name.capitalize())
        .datasource(_source())
        .query(f"label_values({variable.metric}, {variable.label})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _curves(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.meaning)
        .datasource(_source())
        .unit(_unit(panel.unit))
        .span(panel.width)
        .height(8)
        .min(0)
        .fill_opacity(70 if panel.stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
    )
    if panel.top is not None:
        built = built.max(panel.top)
    if panel.stacked:
        built = built.stacking(StackingConfig().mode(StackingMode.NORMAL))
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        built = built.with_target(_target(letter, query))
    return built


def _number(panel: Panel) -> stat.Panel:
    built = (
        stat.Panel()
        .title(panel.title)
        .description(panel.meaning)
        .datasource(_source())
        .unit(_unit(panel.unit))
        .span(panel.width)
        .height(4)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    )
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        built = built.with_target(_target(letter, query))
    return built


def _target(letter: str, query: Query) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(letter)
        .expr(query.expression)
        .legend_format(query.legend or "__auto")
        .datasource(_source())
    )


def _source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid="$datasource")


def _unit(unit: Unit) -> str:
    return "suffix: tok/s" if unit == "tok/s" else unit
