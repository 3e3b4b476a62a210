"""A report as tables for a person, readable at 100 columns."""

from __future__ import annotations

import statistics
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from stageline_engine.bench.report import Configuration, Report
from stageline_engine.bench.resources import CAUSES

WIDTH = 100
MIB = 2**20


def print_report(report: Report) -> None:
    """Print to standard output."""
    console = Console(file=sys.stdout, highlight=False)
    if console.width < WIDTH:
        console = Console(file=sys.stdout, highlight=False, width=WIDTH)
    for name, result in report.configurations["A"].workloads.items():
        console.print(f"{name}: {result.summary}")
    for label, configuration in report.configurations.items():
        console.print("\n" + _heading(report, label, configuration))
        console.print(_speed(configuration))
        if configuration.engine is not None:
            console.print("Where stages spend the makespan, %")
            console.print(_stages(configuration))
            console.print("Resident memory, peak over the run")
            console.print(_memory(configuration))
        for note in _notes(configuration):
            console.print(note)
    if report.ratios:
        console.print(f"A ÷ B, median (least … most) of {report.rounds} rounds; above 1: more throughput, longer times")
        console.print(_ratios(report))


def _heading(report: Report, label: str, configuration: Configuration) -> str:
    title = report.model if report.url is None else f"{report.model} at {report.url}"
    if report.ratios:
        title = f"{label}: {title} {configuration.flags}".rstrip()
    rounds = _count(report.rounds, "round") + (", medians" if report.rounds > 1 else "")
    facts = configuration.engine
    if facts is None:
        return f"{title} ({rounds})"
    split = "+".join(map(str, facts.layer_split))
    ranks = ",".join(map(str, facts.tp))
    return (
        f"{title}\n{_count(facts.stages, 'stage')}, layers {split}, TP {ranks}, "
        f"{_count(facts.threads, 'thread')} per rank, {facts.dtype}, M = {_count(facts.slots, 'slot')} ({rounds})"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _speed(configuration: Configuration) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("workload")
    for heading in ("output\ntok/s", "total\ntok/s", "makespan\ns"):
        table.add_column(heading, justify="right")
    table.add_column("first token, s\np50 / p95 / p99", justify="right", no_wrap=True)
    table.add_column("between tokens, ms\np50 / p95 / p99", justify="right", no_wrap=True)
    table.add_column("pre-\nemptions", justify="right")
    for name, result in configuration.workloads.items():
        one = result.median
        preemptions = [round_.preemptions for round_ in result.rounds if round_.preemptions is not None]
        table.add_row(
            name,
            f"{one.throughput:.1f}",
            f"{one.total_throughput:.1f}",
            f"{one.makespan:.2f}",
            " / ".join(f"{seconds:.2f}" for seconds in (one.ttft_p50, one.ttft_p95, one.ttft_p99)),
            " / ".join(f"{seconds * 1000:.1f}" for seconds in (one.itl_p50, one.itl_p95, one.itl_p99)),
            f"{statistics.median(preemptions):g}" if preemptions else "?",
        )
    return table


def _stages(configuration: Configuration) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("workload")
    table.add_column("stage", justify="right")
    table.add_column("steps", justify="right")
    for heading in ("busy", "wait\nschedule", "wait\nfeedback", "wait\nupstream", "wait\ndownstream", "other"):
        table.add_column(heading, justify="right")
    for name, result in configuration.workloads.items():
        for stage, rounds in enumerate(zip(*(round_.stages for round_ in result.rounds), strict=True)):
            shares = [statistics.mean(getattr(one, cause) for one in rounds) for cause in (*CAUSES, "other")]
            table.add_row(
                name if stage == 0 else "",
                str(stage),
                f"{statistics.mean(one.steps for one in rounds):.0f}",
                *(f"{share * 100:.1f}" for share in shares),
            )
    return table


def _memory(configuration: Configuration) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("process")
    table.add_column("MiB", justify="right")
    for name, peak in configuration.memory.items():
        table.add_row(name, f"{peak / MIB:.0f}")
    return table


def _notes(configuration: Configuration) -> list[str]:
    return [
        f"Note: {name} found {cached} prompt tokens in a prefix cache: its figures flatter the server."
        for name, result in configuration.workloads.items()
        if (cached := sum(round_.cached_tokens for round_ in result.rounds))
    ]


def _ratios(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("workload")
    columns = (
        ("output tok/s", "throughput"),
        ("first token p50", "ttft_p50"),
        ("between tokens p50", "itl_p50"),
        ("between tokens p99", "itl_p99"),
    )
    for heading, _ in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name in report.ratios:
        cells = []
        for _, figure in columns:
            middle, low, high = (
                getattr(of[name], figure) for of in (report.ratios, report.ratios_min, report.ratios_max)
            )
            cells.append(f"{middle:.3f} ({low:.2f}…{high:.2f})")
        table.add_row(name, *cells)
    return table
