"""`stageline bench`: fixed workloads on engines of this command, or on a server behind a URL."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, get_type_hints

import cyclopts
import msgspec
from cyclopts import Group, Parameter

from stageline_engine.bench.http_target import HttpTarget
from stageline_engine.bench.report import Report, Session, Turn, compare, join_sessions
from stageline_engine.bench.runner import run_turns, run_url
from stageline_engine.bench.tables import print_report
from stageline_engine.bench.workloads import Workload, parse_workloads
from stageline_engine.cli.console import Progress
from stageline_engine.cli.flags import MODEL_HELP
from stageline_engine.cli.options import EngineOptions, engine_config
from stageline_engine.client.launch import prepare
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.server.settings import load_api_keys

BENCH = Group.create_ordered("Benchmark")
COMPARE_ROUNDS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What only a benchmark needs."""

    workloads: Annotated[str, Parameter(group=BENCH, help="Which workloads to run, in this order.")] = "W1,W2,W3,W4"
    rounds: Annotated[
        int | None,
        Parameter(
            group=BENCH, help="Times to run each workload; default: 3 with --compare, else 1.", show_default=False
        ),
    ] = None
    compare: Annotated[
        tuple[str, str] | None,
        Parameter(
            group=BENCH,
            allow_leading_hyphen=True,
            negative="",
            help="Two sets of engine flags, A and B, each in quotes; they are added to the flags that both share, and "
            "run in turn: A B A B …",
        ),
    ] = None
    json: Annotated[Path | None, Parameter(group=BENCH, help="File to write the results to; see docs.")] = None
    prompt_seed: Annotated[
        int | None,
        Parameter(
            group=BENCH,
            help="Seed of the prompts' token ids; default: 0, and for a URL a new one each time, because the server "
            "may still have the prompts of the last time in its prefix cache.",
            show_default=False,
        ),
    ] = None
    api_key_file: Annotated[
        Path | None, Parameter(group=BENCH, help="For a URL: file whose first line is the key to send.")
    ] = None


ENGINE_DEFAULTS = EngineOptions()
BENCH_DEFAULTS = BenchOptions()


def bench_command(
    model_or_url: Annotated[
        str,
        Parameter(help=f"{MODEL_HELP} Or the address of an OpenAI-compatible server: http://…, https://…"),
    ],
    *,
    engine: Annotated[EngineOptions, Parameter(name="*")] = ENGINE_DEFAULTS,
    bench: Annotated[BenchOptions, Parameter(name="*")] = BENCH_DEFAULTS,
) -> int:
    """Measure throughput, latencies, memory and where stages spend their time, with fixed synthetic workloads.

    W1: 32 requests of 64 tokens in and 128 out. W2: 16 of 512 in, 16 out. W3: one of 64 in, 128 out. W4: 48 of mixed
    lengths. All requests of a workload are sent at once; greedy, end of sequence ignored, no shared prefixes.
    """
    workloads = parse_workloads(bench.workloads)
    rounds = (1 if bench.compare is None else COMPARE_ROUNDS) if bench.rounds is None else bench.rounds
    if rounds < 1:
        raise ConfigurationError("--rounds", rounds, "give a number of at least 1")
    if bench.json is not None and not bench.json.absolute().parent.is_dir():
        raise ConfigurationError("--json", str(bench.json), "its directory does not exist: create it first")
    progress = Progress()
    if model_or_url.startswith(("http://", "https://")):
        report = _bench_url(model_or_url, engine, bench, workloads, rounds, progress)
    else:
        report = _bench_engines(model_or_url, engine, bench, workloads, rounds, progress)
    print_report(report)
    if bench.json is not None:
        bench.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
        progress(f"wrote {bench.json}")
    return 0


def _bench_engines(
    model: str,
    engine: EngineOptions,
    bench: BenchOptions,
    workloads: Sequence[Workload],
    rounds: int,
    progress: Progress,
) -> Report:
    if bench.api_key_file is not None:
        raise ConfigurationError("--api-key-file", str(bench.api_key_file), "only a URL takes a key: leave it out")
    given = {"A": ""} if bench.compare is None else dict(zip("AB", bench.compare, strict=True))
    configs = {label: engine_config(model, layered(engine, flags)) for label, flags in given.items()}
    launches = {label: prepare(config, progress) for label, config in configs.items()}
    setups = {label: launch.setup for label, launch in launches.items()}
    prompt_seed = bench.prompt_seed or 0
    sessions, turns = asyncio.run(run_turns(setups, workloads, rounds, prompt_seed, progress))
    return _report(launches["A"].served_model_name, None, rounds, prompt_seed, given, sessions, turns)


def _bench_url(
    url: str,
    engine: EngineOptions,
    bench: BenchOptions,
    workloads: Sequence[Workload],
    rounds: int,
    progress: Progress,
) -> Report:
    if bench.compare is not None:
        raise ConfigurationError("--compare", bench.compare, "a server has one configuration: give a model, not a URL")
    if engine != EngineOptions(served_model_name=engine.served_model_name):
        changed = [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(engine)
            if field.name != "served_model_name" and getattr(engine, field.name) != field.default
        ]
        raise ConfigurationError(
            changed[0],
            ", ".join(changed),
            "flags of the engine have no effect on a server behind a URL: leave them out",
        )
    key = None if bench.api_key_file is None else load_api_keys(bench.api_key_file)[0]
    prompt_seed = secrets.randbits(31) if bench.prompt_seed is None else bench.prompt_seed

    async def run() -> tuple[str, str, Session, Turn]:
        async with HttpTarget(url, engine.served_model_name, key) as target:
            session, turn = await run_url(target, workloads, rounds, prompt_seed, progress)
            return target.model, target.url, session, turn

    model, address, session, turn = asyncio.run(run())
    return _report(model, address, rounds, prompt_seed, {"A": ""}, {"A": [session]}, [turn])


def _report(
    model: str,
    url: str | None,
    rounds: int,
    prompt_seed: int,
    given: dict[str, str],
    sessions: dict[str, list[Session]],
    turns: list[Turn],
) -> Report:
    configurations = {label: join_sessions(flags, sessions[label]) for label, flags in given.items()}
    ratios = compare(configurations["A"], configurations["B"]) if "B" in configurations else {}
    return Report(
        version=version("stageline"),
        model=model,
        url=url,
        rounds=rounds,
        prompt_seed=prompt_seed,
        turns=turns,
        configurations=configurations,
        ratios={name: ratio.median for name, ratio in ratios.items()},
        ratios_min={name: ratio.low for name, ratio in ratios.items()},
        ratios_max={name: ratio.high for name, ratio in ratios.items()},
        ratios_rounds={name: ratio.rounds for name, ratio in ratios.items()},
    )


def layered(base: EngineOptions, flags: str) -> EngineOptions:
    """``base`` with the flags of one configuration of --compare on top, read by the parser of the command itself.

    Raises:
        ConfigurationError: the text is not a list of engine flags.
    """
    hints = get_type_hints(EngineOptions, include_extras=True)
    # The parser fills what is not given with the defaults of the class, so the class gets those of `base`.
    layer = dataclasses.make_dataclass(
        "LayeredOptions",
        [
            (field.name, hints[field.name], dataclasses.field(default=getattr(base, field.name)))
            for field in dataclasses.fields(EngineOptions)
        ],
        bases=(EngineOptions,),
        frozen=True,
        kw_only=True,
    )
    app = cyclopts.App(name="--compare", help_flags=[], version_flags=[], result_action="return_value")
    app.default(layer)
    try:
        found = app(shlex.split(flags), exit_on_error=False, print_error=False)
    except (cyclopts.CycloptsError, ValueError) as error:
        raise ConfigurationError("--compare", flags, f"write flags of the engine as above: {error}") from error
    return EngineOptions(**{field.name: getattr(found, field.name) for field in dataclasses.fields(EngineOptions)})
