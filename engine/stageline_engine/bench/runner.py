"""Runs workloads: one engine from start to end, two of them in turn, or a server behind a URL.

    session:  start → for each round: warm up, then each workload → close

With two configurations each round is a session of A and then one of B. An engine is closed before the next one starts,
so that they share neither cores nor memory; a slow spell of the machine then meets both sides of a ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from stageline_engine.bench.figures import RequestRecord, figures
from stageline_engine.bench.http_target import HttpTarget
from stageline_engine.bench.report import EngineFacts, Round, Session, Turn
from stageline_engine.bench.resources import MemoryWatch, StageTime, engine_pids, settled, stage_times
from stageline_engine.bench.target import EngineTarget, send_all
from stageline_engine.bench.workloads import WARM_UP, Workload
from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.engine.setup import CoreSetup

Say = Callable[[str], None]


async def run_turns(
    setups: Mapping[str, CoreSetup], workloads: Sequence[Workload], rounds: int, prompt_seed: int, say: Say
) -> tuple[dict[str, list[Session]], list[Turn]]:
    """Sessions by configuration. A single configuration has one session with all rounds.

    Raises:
        ConfigurationError: a workload does not fit into a configuration's sequence length; nothing was started.
        EngineFailedError: an engine did not start, or failed; none is left running.
    """
    for setup in setups.values():
        check_lengths(workloads, setup.max_model_len)
    if len(setups) == 1:
        plan = [(label, range(rounds)) for label in setups]
    else:
        plan = [(label, range(number, number + 1)) for number in range(rounds) for label in setups]
    sessions: dict[str, list[Session]] = {label: [] for label in setups}
    turns = []
    began = time.perf_counter()
    for label, numbers in plan:
        turn_began = time.perf_counter()

        def tell(line: str, label: str = label) -> None:
            say(line if len(setups) == 1 else f"{label}: {line}")

        sessions[label].append(await run_session(setups[label], workloads, numbers, prompt_seed, tell))
        turns.append(
            Turn(
                configuration=label,
                rounds=list(numbers),
                begin=turn_began - began,
                end=time.perf_counter() - began,
            )
        )
    return sessions, turns


def check_lengths(workloads: Sequence[Workload], max_model_len: int) -> None:
    """Refuse workloads with sequences that are too long.

    Raises:
        ConfigurationError: names the workload and the length that it needs.
    """
    for workload in workloads:
        longest = max(workload.longest, WARM_UP.longest)
        if longest > max_model_len:
            raise ConfigurationError(
                "--max-model-len",
                max_model_len,
                f"{workload.name} and its warm-up need {longest} tokens: allow more, or choose other --workloads",
            )


async def run_session(
    setup: CoreSetup, workloads: Sequence[Workload], rounds: Sequence[int], prompt_seed: int, say: Say
) -> Session:
    """Start an engine, run the rounds, close it."""
    engine = await AsyncEngine.start(setup, say)
    try:
        memory = MemoryWatch(engine_pids(engine.pid, engine.ready.rank_pids))
        found: dict[str, list[Round]] = {workload.name: [] for workload in workloads}
        async with memory.running():
            for number in rounds:
                await _run(engine, WARM_UP, number, prompt_seed, say)
                for workload in workloads:
                    found[workload.name].append(await _run(engine, workload, number, prompt_seed, say))
        return Session(
            facts=_facts(engine),
            memory=memory.peaks,
            rounds=found,
            summaries={workload.name: workload.summary for workload in workloads},
        )
    finally:
        await engine.close()


async def run_url(
    target: HttpTarget, workloads: Sequence[Workload], rounds: int, prompt_seed: int, say: Say
) -> tuple[Session, Turn]:
    """Run the rounds against a server."""
    began = time.perf_counter()
    found: dict[str, list[Round]] = {workload.name: [] for workload in workloads}
    for number in range(rounds):
        say(f"round {number + 1}: {WARM_UP.name}")
        await send_all(target, WARM_UP.requests(prompt_seed, number))
        for workload in workloads:
            say(f"round {number + 1}: {workload.name}")
            records = await send_all(target, workload.requests(prompt_seed, number))
            found[workload.name].append(_round(records))
    session = Session(
        facts=None,
        memory={},
        rounds=found,
        summaries={workload.name: workload.summary for workload in workloads},
    )
    turn = Turn(configuration="A", rounds=list(range(rounds)), begin=0.0, end=time.perf_counter() - began)
    return session, turn


async def _run(engine: AsyncEngine, workload: Workload, number: int, prompt_seed: int, say: Say) -> Round:
    say(f"round {number + 1}: {workload.name}")
    requests = workload.requests(prompt_seed, number)
    before = await settled(engine, after_step=-1)
    records = await send_all(EngineTarget(engine), requests)
    after = await settled(engine, after_step=before.steps)
    makespan = figures(records).makespan
    return _round(
        records,
        after.preemptions - before.preemptions,
        stage_times(before.stages, after.stages, makespan),
    )


def _round(records: Sequence[RequestRecord], preemptions: int | None = None, stages: Sequence[StageTime] = ()) -> Round:
    return Round(
        figures=figures(records),
        requests=len(records),
        prompt_tokens=sum(record.prompt_tokens for record in records),
        output_tokens=sum(record.output_tokens for record in records),
        cached_tokens=sum(record.cached_tokens for record in records),
        preemptions=preemptions,
        stages=list(stages),
    )


def _facts(engine: AsyncEngine) -> EngineFacts:
    ready, setup = engine.ready, engine.setup
    return EngineFacts(
        stages=len(ready.layer_split),
        tp=ready.tp,
        layer_split=ready.layer_split,
        threads=setup.config.parallel.threads or 1,
        dtype=ready.dtype,
        slots=ready.slots,
        num_blocks=ready.num_blocks,
        block_size=ready.block_size,
        max_num_batched_tokens=setup.token_budget,
    )
