"""`stageline plan`: what a cut of a model would need and give, before anything is started. No weights are loaded."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from cyclopts import Parameter

from stageline_engine.cli import flags
from stageline_engine.cli.console import Progress
from stageline_engine.cli.from_metrics import measure, print_proposal, running
from stageline_engine.cli.options import EngineOptions, engine_config
from stageline_engine.cli.plan_table import print_plan
from stageline_engine.client.launch import check_shape, resolved
from stageline_engine.core.config import EngineConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning import devices
from stageline_engine.planning.machine import free_machine_bytes
from stageline_engine.planning.measured import propose
from stageline_engine.planning.memory import MemoryLimit, machine_limit
from stageline_engine.planning.report import make_plan
from stageline_engine.planning.split import device_of
from stageline_engine.planning.units import parse_bytes
from stageline_engine.planning.workload import DEFAULT_WORKLOAD, parse_workload
from stageline_engine.sources.profile_cache import load_profile
from stageline_engine.sources.resolve import resolve

Shown = TypeVar("Shown", bound=msgspec.Struct)


def plan_command(
    model: flags.ModelName,
    /,
    *,
    gpus: Annotated[
        str | None,
        Parameter(
            group=flags.PLAN,
            help=f"GPU of every rank: {', '.join(devices.GPU_NAMES)}; default: CPU ranks on this machine.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        Parameter(
            group=flags.PLAN,
            help="Memory of each rank, e.g. 8GiB; default: the GPU's, or its part of what is free on this machine.",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        Parameter(
            group=flags.PLAN,
            help="Prompt and output tokens of a typical request, IN:OUT; default: 64:128, or what --from-metrics saw.",
        ),
    ] = None,
    from_metrics: Annotated[
        str | None,
        Parameter(
            group=flags.PLAN,
            help="Address of a server that runs this model: propose a better split from how busy its stages are.",
        ),
    ] = None,
    measure_seconds: Annotated[
        float | None,
        Parameter(
            group=flags.PLAN, help="With --from-metrics: measure for so long; default: all the time since its start."
        ),
    ] = None,
    json: Annotated[bool, Parameter(group=flags.PLAN, negative="", help="Print JSON instead of tables.")] = False,
    stages: flags.Stages = 1,
    tp: flags.Tp = "1",
    layer_split: flags.LayerSplit = None,
    threads: flags.Threads = None,
    dtype: flags.Dtype = "auto",
    max_model_len: flags.MaxModelLen = None,
    allow_unverified_architecture: flags.AllowUnverified = False,
    block_size: flags.BlockSize = 16,
    max_num_seqs: flags.MaxNumSeqs = 64,
    max_num_batched_tokens: flags.MaxNumBatchedTokens = None,
    micro_batches: flags.MicroBatches = None,
) -> int:
    """Show how a model would be cut, what each rank needs, and what throughput is predicted.

    Loads no weights and starts nothing. Also says why a configuration cannot work.
    """
    if measure_seconds is not None and (from_metrics is None or not 0 < measure_seconds < math.inf):
        raise ConfigurationError("--measure-seconds", measure_seconds, "give seconds above 0, with --from-metrics")
    if from_metrics is not None and layer_split is not None:
        raise ConfigurationError("--layer-split", layer_split, "with --from-metrics it has no effect: leave it out")
    if gpus is not None and threads is not None:
        raise ConfigurationError("--threads", threads, "with --gpus it has no effect: leave it out")
    options = EngineOptions(
        stages=stages,
        tp=tp,
        layer_split=layer_split,
        threads=threads,
        device="cpu" if gpus is None else "cuda",
        dtype=dtype,
        max_model_len=max_model_len,
        allow_unverified_architecture=allow_unverified_architecture,
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        micro_batches=micro_batches,
    )
    config = engine_config(model, options)
    mix = None if workload is None else parse_workload(workload)
    device = None if gpus is None else devices.gpu(gpus)
    limit = _limit(config, device, memory)
    progress = Progress()
    folder = resolve(model, progress=progress, with_weights=False)
    check_shape(folder.path, config)
    profile = load_profile(folder.path, allow_unverified_architecture, progress=progress)
    config = resolved(config, profile)
    device = device or device_of(config)
    if from_metrics is not None:
        seen = running(from_metrics, config, profile)
        measured = measure(from_metrics, seen, measure_seconds, progress)
        mix = mix or measured.workload
        proposal = propose(profile, config, measured.split, measured.busy, mix, device, limit)
        _show(proposal, print_proposal, json)
    else:
        _show(make_plan(folder.name, profile, config, device, limit, mix or DEFAULT_WORKLOAD), print_plan, json)
    return 0


def _show(value: Shown, as_tables: Callable[[Shown], None], json: bool) -> None:
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    else:
        as_tables(value)


def _limit(config: EngineConfig, device: devices.Device | None, memory: str | None) -> MemoryLimit:
    if memory is not None:
        return MemoryLimit(bytes=parse_bytes("--memory", memory), value=memory, source="--memory")
    if device is None or device.memory_bytes is None:
        return machine_limit(config, free_machine_bytes())
    return MemoryLimit(bytes=device.memory_bytes, flag="--gpus", value=device.name, source=device.name)
