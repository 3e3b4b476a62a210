"""Flags that commands share, as values, and the configuration that they ask for.

A command takes :class:`EngineOptions` (and ``serve`` :class:`ServerOptions`) flattened into its own flags, and turns
them into the configuration with :func:`engine_config` and :func:`server_settings`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stageline_engine.cli import flags
from stageline_engine.comm.key_file import read_keys
from stageline_engine.core.config import (
    CacheConfig,
    ControlConfig,
    EngineConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    validate,
)
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.node.options import POD_ADDRESS, address_towards, parse_host
from stageline_engine.planning.units import parse_bytes
from stageline_engine.server.settings import ServerSettings, load_api_keys
from stageline_engine.server.tracing import open_tracer


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Everything that decides how an engine runs, but for the model's name; see the fields of EngineConfig."""

    served_model_name: flags.ServedModelName = None
    dtype: flags.Dtype = "auto"
    max_model_len: flags.MaxModelLen = None
    allow_unverified_architecture: flags.AllowUnverified = False
    seed: flags.Seed = 0

    stages: flags.Stages = 1
    tp: flags.Tp = "1"
    layer_split: flags.LayerSplit = None
    threads: flags.Threads = None
    device: flags.Device = "auto"
    executor: flags.Executor = "local"

    block_size: flags.BlockSize = 16
    kv_memory: flags.KvMemory = None
    enable_prefix_caching: flags.EnablePrefixCaching = True

    max_num_seqs: flags.MaxNumSeqs = 64
    max_num_batched_tokens: flags.MaxNumBatchedTokens = None
    micro_batches: flags.MicroBatches = None
    max_waiting: flags.MaxWaiting = 1024

    start_timeout: flags.StartTimeout = 600.0
    hang_timeout: flags.HangTimeout = 30.0

    log_level: flags.LogLevel = "info"
    log_format: flags.LogFormat = "text"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """What only the API server needs."""

    host: Annotated[str, Parameter(group=flags.SERVER, help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Parameter(group=flags.SERVER, help="Port to listen on; 0: the system chooses one.")] = 8000
    status_port: Annotated[
        int | None,
        Parameter(
            group=flags.SERVER,
            help="Port for GET /state, /ready and /live, which answer from the first moment on; 0: the system chooses "
            "one; default: none.",
        ),
    ] = None
    status_host: Annotated[
        str | None, Parameter(group=flags.SERVER, help="Address for --status-port; default: as --host.")
    ] = None
    api_key_file: Annotated[
        Path | None,
        Parameter(group=flags.SERVER, help="File with API keys, one on each line; default: no key is asked for."),
    ] = None
    drain_timeout: Annotated[
        float,
        Parameter(group=flags.SERVER, help="Seconds that running requests may take after SIGTERM."),
    ] = 30.0
    metrics_compat: Annotated[
        str | None,
        Parameter(group=flags.SERVER, help="vllm: export the metrics under vLLM's names too; default: only our own."),
    ] = None
    otlp_traces_endpoint: Annotated[
        str | None,
        Parameter(
            group=flags.SERVER,
            help="URL of a collector that gets a trace of each request by OTLP over HTTP, e.g. "
            "http://127.0.0.1:4318/v1/traces; default: none.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ControlOptions:
    """How stages on other machines come to the head; only with ``--executor ray``."""

    control_port: flags.ControlPort = None
    keys: flags.Keys = None
    ray_address: flags.RayAddress = None


def control_config(options: ControlOptions, executor: str, host: str) -> ControlConfig | None:
    """What the flags ask for; None for executors whose ranks are all on this machine.

    Args:
        host: address that the head listens on, unless its pod has one, or the way to Ray decides.

    Raises:
        ConfigurationError: names the flag, its value and the remedy.
    """
    flags_given = {"--control-port": options.control_port, "--keys": options.keys, "--ray-address": options.ray_address}
    if executor != "ray":
        for flag, value in flags_given.items():
            if value is not None:
                remedy = "only --executor ray has stages on other machines: leave it out"
                raise ConfigurationError(flag, value if isinstance(value, int) else str(value), remedy)
        return None
    if options.control_port is None:
        raise ConfigurationError("--control-port", None, "give the port at which stages on other machines join")
    if options.keys is not None:
        # The engine core takes them; what is wrong with them is told here, before the long steps.
        read_keys(options.keys)
    address = os.environ.get(POD_ADDRESS)
    if not address and options.ray_address is not None:
        address = address_towards(*parse_host("--ray-address", options.ray_address))
    return ControlConfig(
        address=address or host,
        control_port=options.control_port,
        keys=None if options.keys is None else str(options.keys),
        ray_address=options.ray_address,
    )


def engine_config(model: str, options: EngineOptions, control: ControlConfig | None = None) -> EngineConfig:
    """The configuration that the flags ask for, validated as far as is possible without the model.

    Raises:
        ConfigurationError: names the flag, its value and the remedy.
    """
    config = EngineConfig(
        model=ModelConfig(
            model=model,
            served_model_name=options.served_model_name,
            dtype=options.dtype,
            max_model_len=options.max_model_len,
            allow_unverified_architecture=options.allow_unverified_architecture,
            seed=options.seed,
        ),
        parallel=ParallelConfig(
            stages=options.stages,
            tp=parse_numbers("--tp", options.tp),
            layer_split=None if options.layer_split is None else parse_numbers("--layer-split", options.layer_split),
            threads=options.threads,
            device=options.device,
            executor=options.executor,
        ),
        cache=CacheConfig(
            block_size=options.block_size,
            kv_memory=None if options.kv_memory is None else parse_bytes("--kv-memory", options.kv_memory),
            enable_prefix_caching=options.enable_prefix_caching,
        ),
        scheduler=SchedulerConfig(
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
            micro_batches=options.micro_batches,
            max_waiting=options.max_waiting,
        ),
        control=control,
        start_timeout=options.start_timeout,
        hang_timeout=options.hang_timeout,
        log_level=options.log_level,
        log_format=options.log_format,
    )
    validate(config)
    return config


def server_settings(options: ServerOptions, served_model_name: str = "") -> ServerSettings:
    """The server's part of the flags; the name may be put in later, when the model is resolved.

    Raises:
        ConfigurationError: names the flag, its value and the remedy.
    """
    if not 0 <= options.port <= 65535:
        raise ConfigurationError("--port", options.port, "give a number from 0 to 65535")
    if options.status_port is not None and not 0 <= options.status_port <= 65535:
        raise ConfigurationError("--status-port", options.status_port, "give a number from 0 to 65535")
    if options.status_host is not None and options.status_port is None:
        raise ConfigurationError("--status-host", options.status_host, "it has no effect without --status-port")
    if not 0 <= options.drain_timeout < math.inf:
        raise ConfigurationError("--drain-timeout", options.drain_timeout, "give a number of seconds, 0 or more")
    if options.metrics_compat not in (None, "vllm"):
        raise ConfigurationError("--metrics-compat", options.metrics_compat, "give vllm, or leave it out")
    if options.otlp_traces_endpoint is not None:
        # Told before the long steps; it sends nothing until there is a trace.
        open_tracer(options.otlp_traces_endpoint).close()
    return ServerSettings(
        served_model_name=served_model_name,
        api_keys=() if options.api_key_file is None else load_api_keys(options.api_key_file),
        metrics_compat=options.metrics_compat,
        otlp_traces_endpoint=options.otlp_traces_endpoint,
    )


def parse_numbers(flag: str, text: str) -> tuple[int, ...]:
    """``2`` or ``19,11``.

    Raises:
        ConfigurationError: ``text`` is not a list of whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigurationError(flag, text, "write whole numbers with commas between them, e.g. 2,1") from error
