"""`stageline plan --from-metrics`: what a running server tells of its stages, and the better split as a table."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.engine.loop import PROBE_AFTER_SECONDS
from stageline_engine.planning.measured import Proposal
from stageline_engine.planning.workload import Workload
from stageline_engine.server.scrape import Scrape, scrape

FLAG = "--from-metrics"
MOST_HEARTBEATS = 0.1
"""Share of the steps that may be heartbeats; more of them would say more of these than of requests."""
LEAST_STEPS = 20


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What stages did in a time under load."""

    split: tuple[int, ...]
    busy: tuple[float, ...]
    workload: Workload
    """The mean request."""


def running(url: str, config: EngineConfig, profile: ModelProfile) -> Scrape:
    """The pipeline at ``url``, if it is of the shape that is planned.

    Raises:
        ConfigurationError: no server answers there, or it runs something else; names the flag that differs.
    """
    seen, parallel = scrape(url, FLAG), config.parallel
    stages = len(seen.stages)
    if stages != parallel.stages:
        raise ConfigurationError("--stages", parallel.stages, f"{url} runs {stages}: give --stages {stages}")
    ranks = tuple(stage.ranks for stage in seen.stages)
    if ranks != tuple(map(parallel.tp_of, range(stages))):
        shown = ",".join(map(str, ranks))
        raise ConfigurationError("--tp", ",".join(map(str, parallel.tp)), f"{url} runs --tp {shown}: give that")
    layers = sum(stage.layers for stage in seen.stages)
    if layers != len(profile.layers):
        remedy = f"its model has {layers} layers, and this one {len(profile.layers)}: name the model that it serves"
        raise ConfigurationError(FLAG, url, remedy)
    return seen


def measure(url: str, seen: Scrape, seconds: float | None, progress: Callable[[str], None]) -> Measured:
    """Of the next ``seconds``, or of all the time since the server was ready until it was ``seen``.

    Raises:
        ConfigurationError: it had too little to do.
    """
    before, after = None, seen
    if seconds is not None:
        progress(f"measuring for {seconds:g} s")
        time.sleep(seconds)
        before, after = seen, scrape(url, FLAG)
        if after.seconds < before.seconds or len(after.stages) != len(before.stages):
            raise ConfigurationError(FLAG, url, "the server began anew meanwhile: try again")
    steps = min(_increases(before, after, "steps"))
    heartbeats = max(_increases(before, after, "idle")) / PROBE_AFTER_SECONDS
    remedy = "give --measure-seconds, and measure while requests run"
    if steps < LEAST_STEPS:
        raise ConfigurationError(FLAG, url, f"it ran {steps:.0f} steps, and {LEAST_STEPS} are needed: {remedy}")
    if heartbeats > MOST_HEARTBEATS * steps:
        told = f"of {steps:.0f} steps about {heartbeats:.0f} were heartbeats of an idle engine"
        raise ConfigurationError(FLAG, url, f"{told}: {remedy}")
    return Measured(
        split=tuple(stage.layers for stage in after.stages),
        busy=tuple(_increases(before, after, "busy")),
        workload=_workload(before, after),
    )


def print_proposal(proposal: Proposal) -> None:
    """Print it on standard output."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in ("stage", "layers", "load", "better", "predicted load"):
        table.add_column(name, justify="right")
    for stage in proposal.stages:
        table.add_row(
            str(stage.stage),
            str(stage.layers),
            f"{stage.load:.2f}",
            str(stage.proposed_layers),
            f"{stage.predicted_load:.2f}",
        )
    console = Console(highlight=False, width=100)
    console.print(
        f"Measured at {proposal.workload.prompt_tokens} prompt and {proposal.workload.output_tokens} output tokens per "
        "request. Load: busy seconds of a stage / the mean of all stages now."
    )
    console.print(table)
    now = ",".join(map(str, proposal.layer_split))
    if proposal.is_best:
        console.print(f"The present split {now} is the best, or as good as that.")
        return
    slowest = proposal.stages[proposal.slowest_stage]
    console.print(
        f"Stage {slowest.stage} is the slowest, {slowest.load - 1:.0%} above the mean. Better: --layer-split "
        f"{','.join(map(str, proposal.proposed_split))}, predicted to give {proposal.gain - 1:.0%} more throughput "
        "when the pipeline is full."
    )


def _increases(before: Scrape | None, after: Scrape, field: str) -> list[float]:
    """Of a field of each stage; since the start when there is no ``before``."""
    ends = [float(getattr(stage, field)) for stage in after.stages]
    begins = [0.0] * len(ends) if before is None else [float(getattr(stage, field)) for stage in before.stages]
    return [end - begin for begin, end in zip(begins, ends, strict=True)]


def _increase(before: Scrape | None, after: Scrape, field: str) -> float:
    return float(getattr(after, field)) - (0.0 if before is None else float(getattr(before, field)))


def _workload(before: Scrape | None, after: Scrape) -> Workload:
    """The mean request that began in the time; when none did, that of all the time."""
    if _increase(before, after, "prompts") < 1:
        before = None
    prompts = max(1.0, _increase(before, after, "prompts"))
    return Workload(
        prompt_tokens=max(1, round(_increase(before, after, "prompt_tokens") / prompts)),
        output_tokens=round(_increase(before, after, "generation_tokens") / prompts),
    )
