"""The arguments that the operator writes mean, to the engine's own parser, what the resource says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from stageline_engine.cli.main import app
from stageline_engine.cli.options import EngineOptions, ServerOptions, engine_config, server_settings
from stageline_engine.core.config import EngineConfig
from stageline_operator.api.engine import Engine
from stageline_operator.plan.engine_flags import API_KEYS_FILE, engine_arguments
from stageline_operator.plan.spec import read_spec
from support import specs

OF_THE_HEAD = {"executor", "host", "log_format", "port", "status_host", "status_port"}
"""Options of `stageline serve` that follow from being a head, not from the resource."""


def parse(arguments: tuple[str, ...]) -> tuple[EngineConfig, ServerOptions]:
    """What `stageline serve` makes of its arguments."""
    _, bound, _ = app.parse_args(["serve", *arguments], exit_on_error=False, print_error=False)
    engine = bound.arguments.get("engine", EngineOptions())
    return engine_config(bound.arguments["model"], engine), bound.arguments.get("server", ServerOptions())


def parsed(changes: dict[str, Any]) -> tuple[EngineConfig, ServerOptions]:
    return parse(engine_arguments(read_spec(specs.resource(changes)).wanted))


@pytest.mark.parametrize("case", specs.cases("accepted"), ids=lambda case: case["case"])
def test_the_engine_takes_the_arguments_of_every_accepted_resource(case: specs.Case) -> None:
    wanted = read_spec(specs.resource_of(case)).wanted
    config, server = parse(engine_arguments(wanted))
    stages = wanted.pipeline.stages or len(wanted.pipeline.stage_list)
    assert config.parallel.stages == stages
    assert server.port == ServerOptions().port, "the head gives it"


SETTINGS: list[tuple[str, Any, str, Any]] = [
    ("spec.model.source", "hf://org/name@v1", "model.model", "hf://org/name@v1"),
    ("spec.model", {"source": "hf://org/name", "revision": "v2"}, "model.model", "hf://org/name@v2"),
    ("spec.model.source", "pvc://claim/a/b", "model.model", "/model/a/b"),
    ("spec.model.source", "pvc://claim", "model.model", "/model"),
    ("spec.model.source", "file:///models/a", "model.model", "/models/a"),
    ("spec.model.source", "hf://org/name@v1", "model.served_model_name", "name"),
    ("spec.model.source", "pvc://claim", "model.served_model_name", "claim"),
    ("spec.model.servedName", "chat", "model.served_model_name", "chat"),
    ("spec.pipeline", {"stages": 3}, "parallel.stages", 3),
    ("spec.pipeline.layerSplit", [19, 11], "parallel.layer_split", (19, 11)),
    (
        "spec.pipeline",
        {"stageList": [{"layers": {"start": 0, "end": 7}}, {"layers": {"start": 7, "end": 9}}]},
        "parallel.layer_split",
        (7, 2),
    ),
    (
        "spec.pipeline.stageDefaults",
        {"tensorParallel": 2, "resources": {"limits": {"cpu": 2}}},
        "parallel.tp",
        (2,),
    ),
    (
        "spec.pipeline",
        {"stageList": [{"tensorParallel": 2, "resources": {"limits": {"cpu": 2}}}, {}]},
        "parallel.tp",
        (2, 1),
    ),
    ("spec.engine.dtype", "bfloat16", "model.dtype", "bfloat16"),
    ("spec.engine.device", "cpu", "parallel.device", "cpu"),
    ("spec.engine.threads", 3, "parallel.threads", 3),
    ("spec.engine.maxModelLen", 777, "model.max_model_len", 777),
    ("spec.engine.maxNumSeqs", 7, "scheduler.max_num_seqs", 7),
    ("spec.engine.maxNumBatchedTokens", 99, "scheduler.max_num_batched_tokens", 99),
    ("spec.engine.microBatches", 5, "scheduler.micro_batches", 5),
    ("spec.engine.maxWaiting", 3, "scheduler.max_waiting", 3),
    ("spec.engine.blockSize", 32, "cache.block_size", 32),
    ("spec.engine.kvMemory", "3Gi", "cache.kv_memory", 3 * 2**30),
    ("spec.engine.kvMemory", "3G", "cache.kv_memory", 3 * 10**9),
    ("spec.engine.kvMemory", "5k", "cache.kv_memory", 5000),
    ("spec.engine.kvMemory", 12345, "cache.kv_memory", 12345),
    ("spec.engine.enablePrefixCaching", False, "cache.enable_prefix_caching", False),
    ("spec.engine.seed", 12, "model.seed", 12),
    ("spec.engine.allowUnverifiedArchitecture", True, "model.allow_unverified_architecture", True),
    ("spec.engine.startTimeout", 61, "start_timeout", 61.0),
    ("spec.engine.hangTimeout", 11, "hang_timeout", 11.0),
    ("spec.engine.logLevel", "debug", "log_level", "debug"),
]


@pytest.mark.parametrize(("field", "value", "path", "expected"), SETTINGS, ids=lambda value: str(value)[:40])
def test_a_setting_means_the_same_to_the_engine(field: str, value: Any, path: str, expected: Any) -> None:
    config: Any = parsed({field: value})[0]
    for name in path.split("."):
        config = getattr(config, name)
    assert config == expected


def test_settings_of_the_server_arrive() -> None:
    changes = {
        "spec.engine.drainTimeout": 77,
        "spec.monitoring.metricsCompat": "vllm",
        "spec.monitoring.otlpTracesEndpoint": "http://collector.monitoring:4318/v1/traces",
        "spec.network.apiKeys": {"name": "keys", "key": "keys"},
    }
    server = parsed(changes)[1]
    assert server.drain_timeout == 77
    assert server.metrics_compat == "vllm"
    assert server.otlp_traces_endpoint == "http://collector.monitoring:4318/v1/traces"
    assert server.api_key_file == Path(API_KEYS_FILE)
    assert parsed({})[1].api_key_file is None
    assert server_settings(parsed({})[1]).metrics_compat is None


def test_an_unset_setting_has_the_engines_default() -> None:
    assert parsed({})[0].scheduler == EngineConfig(model=parsed({})[0].model).scheduler
    assert parsed({})[0].cache == EngineConfig(model=parsed({})[0].model).cache


def test_every_engine_setting_is_tried() -> None:
    tried = {field.removeprefix("spec.engine.") for field, *_ in SETTINGS} | {"drainTimeout"}
    assert {field.alias for field in Engine.model_fields.values()} <= tried


def test_every_flag_of_the_engine_is_in_the_resource_or_the_heads_own() -> None:
    """A flag that nobody can set on Kubernetes is found when it is added."""
    everything = parsed_flags(
        {
            "spec.engine": {
                "threads": 1,
                "maxModelLen": 9,
                "maxNumBatchedTokens": 9,
                "microBatches": 1,
                "kvMemory": "1Gi",
                "enablePrefixCaching": False,
                "allowUnverifiedArchitecture": True,
            },
            "spec.pipeline.layerSplit": [1, 1],
            "spec.monitoring.metricsCompat": "vllm",
            "spec.monitoring.otlpTracesEndpoint": "http://collector.monitoring:4318/v1/traces",
            "spec.network.apiKeys": {"name": "keys", "key": "keys"},
        }
    )
    flags = {field.name for options in (EngineOptions, ServerOptions) for field in fields(options)}
    assert flags - OF_THE_HEAD == everything


def parsed_flags(changes: dict[str, Any]) -> set[str]:
    """Names of the flags that the operator writes for a resource."""
    arguments = engine_arguments(read_spec(specs.resource(changes)).wanted)[1:]
    return {
        argument.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_") for argument in arguments
    }
