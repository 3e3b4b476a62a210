"""The configuration of an engine: a frozen tree that is built once, at the edge, from flags or from Python.

Each part of the engine gets only its own branch. What is learnt at start (memory, number of blocks) is
not configuration: see :mod:`stageline_engine.core.deployment`.
Each field's docstring line is also its ``--help`` text: meaning, unit, default.
"""

from __future__ import annotations

import math

import msgspec

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.core.field_types import checked_struct, typed_fields
from stageline_engine.core.logs import FORMATS, LEVELS


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which model, and in which number format."""

    model: str
    """Local directory, GGUF file, ``hf://org/name[@revision]``, or ``pip://package``."""
    served_model_name: str | None = None
    """Name that clients use; default: the last part of ``model``."""
    dtype: str = "auto"
    """``auto``, ``float32``, ``bfloat16`` or ``float16``. ``auto`` is the checkpoint's own type on a GPU and float32
    on a CPU."""
    max_model_len: int | None = None
    """Longest sequence, prompt and output together, in tokens; default: what the model was made for."""
    allow_unverified_architecture: bool = False
    """Run an architecture that has no parity test."""
    seed: int = 0
    """Base of the seeds that requests without a seed of their own are given."""


class ParallelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How the model is cut over processes."""

    stages: int = 1
    """Number of pipeline stages."""
    tp: tuple[int, ...] = (1,)
    """Tensor-parallel ranks per stage: one number for all stages, or one for each stage."""
    layer_split: tuple[int, ...] | None = None
    """Layers per stage, e.g. ``19,11``; default: balanced by predicted time."""
    threads: int | None = None
    """CPU threads per rank; default: cores divided by ranks, at least 1."""
    device: str = "auto"
    """``auto``, ``cpu`` or ``cuda``."""
    executor: str = "local"
    """Who hosts the ranks: ``local`` (processes of this machine), ``ray`` (a machine for each stage, which Ray finds or
    which runs ``stageline node``), or ``inline`` (threads of this process, for tests)."""

    def tp_of(self, stage: int) -> int:
        """Number of tensor-parallel ranks of ``stage``."""
        return self.tp[0] if len(self.tp) == 1 else self.tp[stage]

    @property
    def num_ranks(self) -> int:
        """Ranks of all stages together."""
        return sum(self.tp_of(stage) for stage in range(self.stages))


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The paged KV cache."""

    block_size: int = 16
    """Tokens per KV block."""
    kv_memory: int | None = None
    """Bytes of KV cache per rank; default: what ``max_num_seqs`` sequences of ``max_model_len`` need, and at most a
    share of the memory that is free after loading."""
    enable_prefix_caching: bool = True
    """Keep full blocks of finished sequences and use them again for equal prefixes."""


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a micro-batch may hold."""

    max_num_seqs: int = 64
    """Sequences that run at the same time, over all slots."""
    max_num_batched_tokens: int | None = None
    """Rows of one micro-batch; default: 1024 on a CPU with one stage, 256 with several; 2048 on a GPU."""
    micro_batches: int | None = None
    """Micro-batches in flight; default: chosen by predicted throughput."""
    max_waiting: int = 1024
    """Sequences that may wait for admission (a request has ``n``); more requests are answered with 429."""


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How stages on other machines come to the head; only for the executor ``ray``."""

    address: str
    """Address of this machine that they reach."""
    control_port: int
    """Port at which stages on other machines join the head."""
    keys: str | None = None
    """Folder with the file curve.key, which the head and its stages share; default, with ``--ray-address``: a fresh
    key."""
    ray_address: str | None = None
    """HOST:PORT of a Ray cluster that is there already, to find machines for the stages in; default: every stage runs
    ``stageline node``, and comes by itself."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the engine core needs to start."""

    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    cache: CacheConfig = CacheConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    control: ControlConfig | None = None
    """None for executors whose ranks are all on this machine."""
    start_timeout: float = 600.0
    """Seconds without a sign of progress that fetching, loading and warm-up may take."""
    hang_timeout: float = 30.0
    """Seconds without progress of a step after which a stage counts as hung."""
    log_level: str = "info"
    """``debug``, ``info``, ``warning`` or ``error``: lines below it are not written. ``debug`` shows which requests
    each step has, and what libraries print in a rank, of which otherwise the last lines are shown when it dies."""
    log_format: str = "text"
    """``text`` for people, or ``json``: every line on standard error is one JSON object."""


_PARTS: dict[str, type[msgspec.Struct]] = {
    "model": ModelConfig,
    "parallel": ParallelConfig,
    "cache": CacheConfig,
    "scheduler": SchedulerConfig,
}


def validate(config: EngineConfig) -> None:
    """Refuse what can be known to be wrong without looking at the model.

    Raises:
        ConfigurationError: names the flag, its value and the remedy.
    """
    checked_struct("config", config, EngineConfig, ConfigurationError)
    parts = [checked_struct(name, getattr(config, name), kind, ConfigurationError) for name, kind in _PARTS.items()]
    for part in (config, *parts):
        typed_fields(part, _wrong_type)
    _one_of("--log-level", config.log_level, LEVELS)
    _one_of("--log-format", config.log_format, FORMATS)
    _validate_model(config.model)
    _validate_parallel(config.parallel)
    _validate_control(config)
    _at_least("--block-size", config.cache.block_size, 1)
    _at_least("--kv-memory", config.cache.kv_memory, 1)
    _at_least("--max-num-seqs", config.scheduler.max_num_seqs, 1)
    _at_least("--max-waiting", config.scheduler.max_waiting, 1)
    _at_least("--max-num-batched-tokens", config.scheduler.max_num_batched_tokens, 1)
    _at_least("--micro-batches", config.scheduler.micro_batches, 1)
    for flag, seconds in (("--start-timeout", config.start_timeout), ("--hang-timeout", config.hang_timeout)):
        if not 0 < seconds < math.inf:
            raise ConfigurationError(flag, seconds, "give a number of seconds above 0")


def _wrong_type(field: str, value: object, remedy: str) -> ConfigurationError:
    return ConfigurationError("--" + field.replace("_", "-"), value, remedy)


def _validate_model(model: ModelConfig) -> None:
    _one_of("--dtype", model.dtype, ("auto", "float32", "bfloat16", "float16"))
    _at_least("--max-model-len", model.max_model_len, 2)
    if not 0 <= model.seed < 2**63:
        raise ConfigurationError("--seed", model.seed, "give a number from 0 to 2**63 - 1")


def _validate_parallel(parallel: ParallelConfig) -> None:
    _at_least("--stages", parallel.stages, 1)
    _at_least("--threads", parallel.threads, 1)
    _one_of("--device", parallel.device, ("auto", "cpu", "cuda"))
    _one_of("--executor", parallel.executor, ("local", "ray", "inline"))
    if len(parallel.tp) not in (1, parallel.stages):
        raise ConfigurationError(
            "--tp", ",".join(map(str, parallel.tp)), f"give one number, or one for each of the {parallel.stages} stages"
        )
    for ranks in parallel.tp:
        _at_least("--tp", ranks, 1)
    if parallel.layer_split is not None:
        shown = ",".join(map(str, parallel.layer_split))
        if len(parallel.layer_split) != parallel.stages:
            raise ConfigurationError(
                "--layer-split", shown, f"give {parallel.stages} numbers, one for each stage of --stages"
            )
        if min(parallel.layer_split) < 1:
            raise ConfigurationError("--layer-split", shown, "each stage needs at least one layer")


def _validate_control(config: EngineConfig) -> None:
    control = config.control
    if control is not None:
        typed_fields(checked_struct("control", control, ControlConfig, ConfigurationError), _wrong_type)
    if config.parallel.executor != "ray":
        if control is not None:
            remedy = "only --executor ray has stages on other machines: leave it out"
            raise ConfigurationError("--control-port", control.control_port, remedy)
        return
    if control is None:
        remedy = "stages on other machines have to find the head: give --control-port, and --keys or --ray-address"
        raise ConfigurationError("--executor", "ray", remedy)
    if not 0 < control.control_port < 65536:
        raise ConfigurationError("--control-port", control.control_port, "give a number from 1 to 65535")
    if control.keys is None and control.ray_address is None:
        remedy = "give the folder with the curve.key that the stages have too, or --ray-address"
        raise ConfigurationError("--keys", None, remedy)


def _at_least(flag: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ConfigurationError(flag, value, f"give a number of at least {least}")


def _one_of(flag: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(flag, value, f"give one of {', '.join(allowed)}")
