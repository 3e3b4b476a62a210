"""What the status says is in force: of the revision that serves, field by field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from stageline_operator.api.state import HeadState
from stageline_operator.api.status import InferenceDeploymentStatus
from stageline_operator.decide.observed import HeadAnswer
from stageline_operator.decide.reconcile import decide
from stageline_operator.plan.spec import read_spec
from support.operator.simulation import Simulation, settled
from support.operator.told import conditions_of


def _with_settings(simulation: Simulation, **settings: Any) -> None:
    head = simulation.pods["demo-0-head-0"]
    state = HeadState(epoch=1, ready=True, draining=False, stages=(), settings=settings)
    observed = replace(simulation.observed(), heads={0: HeadAnswer(0, head.uid, simulation.now, state, "")})
    for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
        simulation.do(action)


def test_every_field_of_the_spec_is_echoed_with_the_value_in_force() -> None:
    simulation = settled(model={"source": "hf://org/model", "revision": "0123abc"}, engine={"kvMemory": "4Gi"})
    _with_settings(simulation, max_num_seqs=64, kv_memory=4 * 1024**3, micro_batches=3)
    found = {each["field"]: (each["value"], each["source"]) for each in simulation.body["status"]["effective"]}
    assert found["spec.engine.maxNumSeqs"] == ("64", "engine")
    assert found["spec.engine.microBatches"] == ("3", "engine"), "what was left to the engine is told too"
    assert found["spec.model.revision"] == ("0123abc", "operator")
    wanted = read_spec(simulation.body).wanted.dump()
    missing = [path for path in _set_fields(wanted, "spec") if not any(field.startswith(path) for field in found)]
    assert missing == []
    assert conditions_of(simulation)["Degraded"] == ("False", "NoGangScheduler"), "4Gi is 4294967296"


def _effective(simulation: Simulation) -> dict[str, str]:
    return {each["field"]: each["value"] for each in simulation.body["status"]["effective"]}


def test_a_new_revision_is_in_force_only_when_a_replica_of_it_is_ready() -> None:
    simulation = settled(engine={"maxNumSeqs": 64}, restart={"nodeLostSeconds": 30})
    old = simulation.body["status"]["currentRevision"]
    simulation.change(
        image="example/stageline:2",
        engine={"maxNumSeqs": 32},
        restart={"nodeLostSeconds": 40, "backoffSeconds": 7},
        rollout={"paused": True},
    )
    simulation.settle()
    found = _effective(simulation)
    assert found["spec.image"] == "example/stageline:1"
    assert (found["spec.engine.maxNumSeqs"], found["spec.restart.nodeLostSeconds"]) == ("64", "30")
    assert (found["spec.restart.backoffSeconds"], found["spec.rollout.paused"]) == ("7", "true"), "in force at once"
    assert simulation.body["status"]["effectiveRevision"] == old
    assert conditions_of(simulation)["Degraded"] == ("False", "NoGangScheduler"), "64 is what its own revision asks for"
    simulation.change(engine={"maxNumSeqs": 64}, rollout={"paused": False})
    simulation.settle()
    assert _effective(simulation)["spec.image"] == "example/stageline:2"
    assert simulation.body["status"]["effectiveRevision"] == simulation.body["status"]["currentRevision"] != old


def test_each_of_a_groups_fields_is_told_as_the_old_replicas_have_it() -> None:
    simulation = settled(monitoring={"metricsCompat": "vllm", "otlpTracesEndpoint": "http://old:4318"})
    simulation.change(monitoring={"metricsCompat": "none", "otlpTracesEndpoint": None}, rollout={"paused": True})
    simulation.settle()
    found = _effective(simulation)
    assert found["spec.monitoring.metricsCompat"] == "vllm"
    assert found["spec.monitoring.otlpTracesEndpoint"] == "http://old:4318"


def test_fields_that_were_left_to_the_operator_are_told() -> None:
    found = _effective(settled(model={"source": "hf://org/model@v2"}))
    assert found["spec.scheduling.gang"] == "none"
    assert (found["spec.model.servedName"], found["spec.model.revision"]) == ("model", "v2")
    assert found["spec.network.serviceName"] == "demo"


@pytest.mark.parametrize("stages", [2, 64])
def test_each_stage_of_a_list_is_told(stages: int) -> None:
    given = [{"tensorParallel": 1, "env": [{"name": f"E{number}", "value": "x" * 9}]} for number in range(stages)]
    simulation = settled(pipeline={"stageList": given})
    found = _effective(simulation)
    assert found["spec.pipeline.stageList[1].tensorParallel"] == "1"
    assert f"E{stages - 1}" in found[f"spec.pipeline.stageList[{stages - 1}].env"]
    assert "spec.pipeline.stageList" not in found
    InferenceDeploymentStatus.model_validate_json(json.dumps(simulation.body["status"]))


def test_a_stage_list_of_more_fields_than_there_is_room_for_is_told_stage_by_stage() -> None:
    names = [f"E{number}" for number in range(3)]
    resources = {"requests": {"memory": "1Gi"}, "limits": {"memory": "1Gi"}}
    given = [
        {
            "tensorParallel": 1,
            "resources": resources,
            "nodeSelector": {"a": "b"},
            "env": [{"name": name, "value": "x"} for name in names],
            "layers": {"start": 2 * number, "end": 2 * number + 2},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
        }
        for number in range(64)
    ]
    found = _effective(settled(pipeline={"stageList": given}, model={"source": "hf://org/model", "layers": 128}))
    assert "E2" in found["spec.pipeline.stageList[63]"]


def test_what_an_engine_that_loads_has_not_decided_yet_is_no_difference() -> None:
    simulation = settled(engine={"maxModelLen": 2048})
    for is_ready, value in ((False, 16), (False, None), (True, None)):
        head = simulation.pods["demo-0-head-0"]
        state = HeadState(epoch=1, ready=is_ready, draining=False, stages=(), settings={"max_model_len": value})
        observed = replace(simulation.observed(), heads={0: HeadAnswer(0, head.uid, simulation.now, state, "")})
        for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
            simulation.do(action)
        assert conditions_of(simulation)["Degraded"] == ("False", "NoGangScheduler")
        assert _effective(simulation)["spec.engine.maxModelLen"] == "2048"


def _set_fields(value: Any, path: str) -> list[str]:
    if isinstance(value, dict) and value:
        return [found for key, below in value.items() for found in _set_fields(below, f"{path}.{key}")]
    return [] if value in ({}, [], "") else [path]


def test_a_value_that_differs_from_what_was_asked_for_is_degraded() -> None:
    simulation = settled(engine={"maxNumSeqs": 32})
    _with_settings(simulation, max_num_seqs=16)
    assert conditions_of(simulation)["Degraded"] == ("True", "EffectDiffers")
    message = simulation.body["status"]["conditions"][2]["message"]
    assert message == "spec.engine.maxNumSeqs is 32, and the engine reports 16"
