"""`stageline plan`: what a cut of a model would need and give, before anything is started. No weights are loaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from stageline_engine.cli import flags
from stageline_engine.cli.console import Progress
from stageline_engine.cli.options import EngineOptions, engine_config
from stageline_engine.cli.plan_table import print_plan
from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning import devices
from stageline_engine.planning.memory import MemoryLimit
from stageline_engine.planning.report import make_plan
from stageline_engine.planning.threads import default_threads
from stageline_engine.planning.units import parse_bytes
from stageline_engine.planning.workload import parse_workload
from stageline_engine.sources.profile_cache import load_profile
from stageline_engine.sources.resolve import resolve


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
            help="Memory of each rank, e.g. 8GiB; default: the GPU's, or this machine's divided by its ranks.",
        ),
    ] = None,
    workload: Annotated[
        str, Parameter(group=flags.PLAN, help="Prompt and output tokens of a typical request, IN:OUT.")
    ] = "64:128",
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
    mix = parse_workload(workload)
    device = _device(config, gpus)
    limit = _limit(config, device, memory)
    progress = Progress()
    folder = resolve(model, progress=progress, with_weights=False)
    profile = load_profile(folder.path, allow_unverified_architecture, progress=progress)
    plan = make_plan(folder.name, profile, _resolved(config, profile), device, limit, mix)
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(plan), indent=2).decode() + "\n")
    else:
        print_plan(plan)
    return 0


def _device(config: EngineConfig, gpus: str | None) -> devices.Device:
    if gpus is not None:
        return devices.gpu(gpus)
    return devices.cpu(config.parallel.threads or default_threads(os.cpu_count() or 1, _num_ranks(config)))


def _limit(config: EngineConfig, device: devices.Device, memory: str | None) -> MemoryLimit:
    if memory is not None:
        return MemoryLimit(bytes=parse_bytes("--memory", memory), value=memory, source="--memory")
    if device.memory_bytes is not None:
        return MemoryLimit(bytes=device.memory_bytes, flag="--gpus", value=device.name, source=device.name)
    ranks = _num_ranks(config)
    return MemoryLimit(
        bytes=_machine_memory() // ranks,
        source="this machine's memory" + (f" divided by {ranks} ranks" if ranks > 1 else ""),
        is_shared=True,
    )


def _num_ranks(config: EngineConfig) -> int:
    return sum(config.parallel.tp_of(stage) for stage in range(config.parallel.stages))


def _machine_memory() -> int:
    """Bytes that this process may use: the machine's, or less where a container is limited."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _resolved(config: EngineConfig, profile: ModelProfile) -> EngineConfig:
    model = config.model
    dtype = model.dtype
    if dtype == "auto":
        dtype = "float32" if config.parallel.device == "cpu" else profile.checkpoint_dtype
    longest = model.max_model_len or profile.max_model_len
    if longest > profile.max_model_len:
        raise ConfigurationError(
            "--max-model-len", longest, f"the model was made for sequences of at most {profile.max_model_len} tokens"
        )
    return msgspec.structs.replace(config, model=msgspec.structs.replace(model, dtype=dtype, max_model_len=longest))
