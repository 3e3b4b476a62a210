"""The result of a benchmark, as it is written with --json. Pure values. docs/benchmarks.md explains every key."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stageline_engine.bench.figures import Figures, Ratios, median, ratios
from stageline_engine.bench.resources import StageTime


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one workload."""

    figures: Figures
    requests: int
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    """Prompt tokens that the server took from its prefix cache; the workloads mean it to be 0."""
    preemptions: int | None = None
    """None where only the server knows."""
    stages: list[StageTime] = []


class WorkloadResult(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds of one workload with one configuration."""

    summary: str
    median: Figures
    rounds: list[Round]


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the started engine says of itself."""

    stages: int
    tp: tuple[int, ...]
    layer_split: tuple[int, ...]
    threads: int
    dtype: str
    slots: int
    num_blocks: int
    block_size: int
    max_num_batched_tokens: int


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration and what it gave."""

    flags: str
    """As written after --compare; empty for a single configuration."""
    engine: EngineFacts | None
    """None for a server behind a URL."""
    memory: dict[str, int]
    """Peak resident bytes over the whole run, by process."""
    workloads: dict[str, WorkloadResult]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which one engine existed. Turns never overlap."""

    configuration: str
    rounds: list[int]
    begin: float
    """Seconds since the benchmark began."""
    end: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a benchmark found."""

    version: str
    model: str
    url: str | None
    rounds: int
    prompt_seed: int
    turns: list[Turn]
    configurations: dict[str, Configuration]
    """``A``, and with --compare ``B``."""
    ratios: dict[str, Figures]
    """A ÷ B by workload, median over rounds; empty without --compare, as the three below."""
    ratios_min: dict[str, Figures]
    ratios_max: dict[str, Figures]
    ratios_rounds: dict[str, list[Figures]]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine, or one connection to a server, gave from start to end."""

    facts: EngineFacts | None
    memory: dict[str, int]
    rounds: dict[str, list[Round]]
    summaries: dict[str, str]


def join_sessions(flags: str, sessions: Sequence[Session]) -> Configuration:
    """Sessions of one configuration, in the order of their rounds."""
    memory: dict[str, int] = {}
    for session in sessions:
        for name, peak in session.memory.items():
            memory[name] = max(memory.get(name, 0), peak)
    workloads = {}
    for name, summary in sessions[0].summaries.items():
        rounds = [round_ for session in sessions for round_ in session.rounds[name]]
        workloads[name] = WorkloadResult(
            summary=summary, median=median([round_.figures for round_ in rounds]), rounds=rounds
        )
    return Configuration(flags=flags, engine=sessions[0].facts, memory=memory, workloads=workloads)


def compare(a: Configuration, b: Configuration) -> dict[str, Ratios]:
    """A ÷ B by workload."""
    return {
        name: ratios(
            [round_.figures for round_ in a.workloads[name].rounds],
            [round_.figures for round_ in b.workloads[name].rounds],
        )
        for name in a.workloads
    }
