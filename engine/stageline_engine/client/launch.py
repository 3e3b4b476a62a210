"""From a person's configuration to a CoreSetup: resolve the model, decide the cut, refuse what cannot work.

Runs where the command runs, before any process is started, so that mistakes are told at once. No torch here:
what needs it (conversion, profile) happens in subprocesses of :mod:`stageline_engine.sources`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from stageline_engine.core.config import EngineConfig, validate
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.engine.setup import CoreSetup
from stageline_engine.models.families import VERIFIED, family_of
from stageline_engine.planning.feasibility import check_stages, check_tp, tp_sizes
from stageline_engine.planning.gpus import check_gpu_count, gpu_limit, visible_gpus
from stageline_engine.planning.machine import free_machine_bytes
from stageline_engine.planning.memory import MemoryLimit, check_kv_memory, check_stored_size, machine_limit
from stageline_engine.planning.split import choose_split, stage_specs
from stageline_engine.planning.threads import default_threads
from stageline_engine.sources.folder import ModelFolder, read_shape
from stageline_engine.sources.integrity import stored_elements
from stageline_engine.sources.profile_cache import load_profile
from stageline_engine.sources.resolve import resolve
from stageline_engine.text.tokenizer import eos_token_ids


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """A model and a cut that can be started."""

    setup: CoreSetup
    folder: ModelFolder
    served_model_name: str


def prepare(config: EngineConfig, progress: Callable[[str], None]) -> Launch:
    """Resolve everything that ``auto`` and None leave open.

    Raises:
        ConfigurationError: names the flag, its value and the remedy (ModelSourceError for the model itself).
    """
    validate(config)
    config, limit = _on_device(config)
    folder = resolve(config.model.model, progress=progress)
    check_shape(folder.path, config)
    if limit is not None:
        check_stored_size(stored_elements(folder.path), config, limit)
    profile = load_profile(folder.path, config.model.allow_unverified_architecture, progress=progress)
    config = resolved(config, profile)
    specs = stage_specs(profile, config.parallel, choose_split(profile, config, limit=limit))
    check_kv_memory(profile, specs, config)
    setup = CoreSetup(
        config=config,
        model_folder=str(folder.path),
        model=folder.pinned,
        profile=profile,
        specs=tuple(specs),
        eos_token_ids=eos_token_ids(folder.path),
        endpoint="",
    )
    return Launch(setup=setup, folder=folder, served_model_name=config.model.served_model_name or folder.name)


def _on_device(config: EngineConfig) -> tuple[EngineConfig, MemoryLimit | None]:
    """``config`` with its device decided, and what a rank may take of it; None: that is known only when it loads.

    Raises:
        ConfigurationError: there are fewer GPUs than ranks.
    """
    parallel = config.parallel
    if parallel.executor == "ray":
        # What the stages' machines have, each says itself when its ranks load.
        device = "cpu" if parallel.device == "auto" else parallel.device
        return msgspec.structs.replace(config, parallel=msgspec.structs.replace(parallel, device=device)), None
    if parallel.device != "cpu":
        gpus = visible_gpus()
        if parallel.device == "cuda" or gpus != []:
            check_gpu_count(config, gpus)
            parallel = msgspec.structs.replace(parallel, device="cuda")
            return msgspec.structs.replace(config, parallel=parallel), gpu_limit(gpus) if gpus else None
        config = msgspec.structs.replace(config, parallel=msgspec.structs.replace(parallel, device="cpu"))
    return config, machine_limit(config, free_machine_bytes())


def check_shape(folder: Path, config: EngineConfig) -> None:
    """Refuse what config.json tells by itself to be impossible: the first profile of a model takes many seconds.

    Raises:
        ConfigurationError: a cut that cannot be; names flag, value and what is possible.
        UnsupportedModelError: no parity test covers the architecture.
    """
    shape = read_shape(folder)
    if shape.architecture is not None:
        family_of(shape.architecture, config.model.allow_unverified_architecture)
    if shape.layers is not None:
        check_stages(shape.layers, config.parallel)
    if shape.attention_heads is not None and (family := VERIFIED.get(shape.architecture or "")):
        # Without a number of KV heads there is mostly one for each attention head; if not, still fewer are possible.
        possible = tp_sizes(shape.attention_heads, shape.kv_heads or shape.attention_heads, family.kv_sharded)
        check_tp(shape.attention_heads, possible, config.parallel)


def resolved(config: EngineConfig, profile: ModelProfile) -> EngineConfig:
    """``config``, whose device is decided, with dtype, threads and longest sequence decided too.

    Threads of ranks on other machines stay open: each machine gives them what its cores are.

    Raises:
        ConfigurationError: the model was not made for so long sequences.
    """
    model, parallel = config.model, config.parallel
    dtype = model.dtype
    if dtype == "auto":
        dtype = "float32" if parallel.device == "cpu" else profile.checkpoint_dtype
    longest = model.max_model_len or profile.max_model_len
    if longest > profile.max_model_len:
        raise ConfigurationError(
            "--max-model-len", longest, f"the model was made for sequences of at most {profile.max_model_len} tokens"
        )
    threads = parallel.threads
    if threads is None and parallel.executor != "ray":
        threads = default_threads(os.cpu_count() or 1, parallel.num_ranks)
    return msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(model, dtype=dtype, max_model_len=longest),
        parallel=msgspec.structs.replace(parallel, threads=threads),
    )
