"""What a pipeline did between two looks at its metrics, as a table that fits 100 columns."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from stageline_engine.planning.units import show_bytes
from stageline_engine.server.scrape import Scrape, ScrapedStage

NOTHING = "-"


def top_table(before: Scrape, after: Scrape) -> Group:
    """Rates and shares of the time between the two; states as of the second."""
    seconds = after.at - before.at
    steps = after.stages[0].steps - before.stages[0].steps
    rows = f"{(after.rows - before.rows) / steps:.1f}" if steps > 0 else NOTHING
    title = Text(after.model, style="bold").append(
        f"   epoch {after.epoch:g}   {(after.generation_tokens - before.generation_tokens) / seconds:,.1f} tokens/s   "
        f"{(after.prompt_tokens - before.prompt_tokens) / seconds:,.1f} prompt tokens/s"
    )
    requests = Text(
        f"{after.running:g} running   {after.waiting:g} waiting   KV {after.kv_usage:.0%}   "
        f"slots {after.slots_in_flight:g}/{after.slots:g}"
    )
    work = Text(f"{rows} rows per micro-batch   imbalance {after.imbalance:.2f}   efficiency {after.efficiency:.0%}")
    return Group(title, requests, work, _stages(before, after, seconds))


def _stages(before: Scrape, after: Scrape, seconds: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("stage", "layers", "TP", "busy", "wait\nup", "wait\ndown", "wait\nplan", "wait\ntoken"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("comm.", "idle", "load", "steps/s", "to next/s", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    slowest = max(range(len(after.stages)), key=lambda stage: after.stages[stage].load)
    for stage, (old, new) in enumerate(zip(before.stages, after.stages, strict=True)):
        moved = (new.boundary_bytes - old.boundary_bytes) / seconds
        table.add_row(
            str(stage),
            str(new.layers),
            str(new.ranks),
            *_shares(old, new),
            f"{new.load:.2f}",
            f"{(new.steps - old.steps) / seconds:.1f}",
            show_bytes(int(moved)),
            show_bytes(int(new.resident_bytes)),
            style="bold" if stage == slowest and new.load > 1 else None,
        )
    return table


def _shares(old: ScrapedStage, new: ScrapedStage) -> list[str]:
    spent = [
        new.busy - old.busy,
        *(new.waits[cause] - old.waits[cause] for cause in new.waits),
        new.communicating - old.communicating,
        new.idle - old.idle,
    ]
    accounted = sum(spent)
    return [f"{part / accounted:.0%}" if accounted > 0 else NOTHING for part in spent]
