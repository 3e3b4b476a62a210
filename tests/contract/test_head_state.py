"""What a real head answers at `GET /state` is, to the operator, the truth about what it asked for."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from stageline_operator.api.constants import PATH_LIVE, PATH_READY, PATH_STATE
from stageline_operator.api.engine import Engine
from stageline_operator.api.state import HeadState
from stageline_operator.decide.observed import HeadAnswer
from stageline_operator.decide.reconcile import decide
from stageline_operator.plan.engine_flags import engine_arguments
from stageline_operator.plan.spec import read_spec
from support import specs
from support.operator.simulation import Simulation, settled
from support.operator.told import conditions_of
from support.serving import Served, serving
from support.tiny_models import LAYERS, tiny_model

ASKED: dict[str, Any] = {
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "maxModelLen": 256,
    "maxNumSeqs": 8,
    "maxNumBatchedTokens": 96,
    "microBatches": 2,
    "maxWaiting": 77,
    "blockSize": 8,
    "kvMemory": "16Mi",
    "enablePrefixCaching": False,
    "seed": 5,
    "allowUnverifiedArchitecture": True,
    "startTimeout": 400,
    "hangTimeout": 40,
    "drainTimeout": 50,
    "logLevel": "warning",
}
LEFT_OPEN: dict[str, Any] = {"device": "cpu", "maxModelLen": 256, "maxNumSeqs": 8}
ENGINE_FIELDS = set(Engine.model_fields)


class Head:
    """A head with its status port, found through its own output."""

    def __init__(self, served: Served) -> None:
        self.served = served
        served.wait_line("status on ")
        found = re.search(r"status on (\S+)/state", served.log)
        assert found is not None
        self._http = httpx.Client(base_url=found[1], timeout=10)

    def state(self) -> HeadState:
        """Its answer, as the operator takes it."""
        answer = self._http.get(PATH_STATE)
        assert answer.status_code == 200
        return HeadState.model_validate_json(answer.content)

    def status(self, path: str) -> int:
        return self._http.get(path).status_code

    def close(self) -> None:
        self._http.close()


def head_of(engine: dict[str, Any]) -> Iterator[Head]:
    changes = {
        "spec.model.source": f"file://{tiny_model('llama')}",
        "spec.pipeline": {"stages": 2},
        "spec.engine": engine,
    }
    model, *flags = engine_arguments(read_spec(specs.resource(changes)).wanted)
    with serving(model, *flags, "--executor=local", "--status-port=0") as served:
        head = Head(served)
        yield head
        head.close()


@pytest.fixture
def asked() -> Iterator[Head]:
    yield from head_of(ASKED)


@pytest.fixture
def left_open() -> Iterator[Head]:
    yield from head_of(LEFT_OPEN)


def told(state: HeadState, engine: dict[str, Any]) -> Simulation:
    """A resource with these settings, whose head gave this answer."""
    simulation = settled(engine=engine)
    head = simulation.pods["demo-0-head-0"]
    observed = replace(simulation.observed(), heads={0: HeadAnswer(0, head.uid, simulation.now, state, "")})
    for action in decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions:
        simulation.do(action)
    return simulation


def effective(simulation: Simulation) -> dict[str, str]:
    """What the status says is in force, of what the engine itself reported."""
    entries = simulation.body["status"]["effective"]
    return {each["field"].removeprefix("spec.engine."): each["value"] for each in entries if each["source"] == "engine"}


def test_each_phase_of_a_heads_life_is_an_answer_that_the_operator_takes(asked: Head) -> None:
    phases: list[set[str]] = []
    while not asked.served.url:
        state = asked.state()
        assert asked.status(PATH_LIVE) == 200
        assert [stage.stage for stage in state.stages] == [0, 1]
        assert set(state.settings) >= ENGINE_FIELDS
        assert not state.draining
        # Asked later, so it may be ready by now, but never the other way round.
        assert not state.ready or asked.status(PATH_READY) == 200
        phases.append({stage.state for stage in state.stages})
    assert {"loading"} in phases
    state = asked.state()
    assert (state.epoch, state.ready, state.draining) == (1, True, False)
    assert {stage.state for stage in state.stages} == {"member"}
    first, last = (stage.layers for stage in state.stages)
    assert first is not None
    assert last is not None
    assert (first[0], first[1], last[1]) == (0, last[0], LAYERS)
    assert asked.status(PATH_READY) == 200

    body = {"model": asked.served.model, "prompt": "hello", "max_tokens": 240, "ignore_eos": True, "stream": True}
    with asked.served.client() as client, client.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        asked.served.signal(signal.SIGTERM)
        while not (state := asked.state()).draining:
            pass
        assert not state.ready
        assert asked.status(PATH_READY) == 503
        assert asked.status(PATH_LIVE) == 200
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert asked.served.wait_exit() == 0


def test_what_was_asked_for_is_in_force_and_the_operator_sees_no_difference(asked: Head) -> None:
    asked.served.wait_ready()
    simulation = told(asked.state(), ASKED)
    assert conditions_of(simulation)["Degraded"] == ("False", "NoGangScheduler")
    assert set(effective(simulation)) == {field.alias for field in Engine.model_fields.values()}


def test_what_was_left_to_the_engine_is_told_as_it_decided(left_open: Head) -> None:
    left_open.served.wait_ready()
    state = left_open.state()
    assert {name for name in ENGINE_FIELDS if state.settings[name] is None} == set()
    simulation = told(state, LEFT_OPEN)
    assert conditions_of(simulation)["Degraded"] == ("False", "NoGangScheduler")
    found = effective(simulation)
    assert found["dtype"] == "float32"
    assert found["maxNumBatchedTokens"] == "256"
    assert int(found["threads"]) >= 1
    assert int(found["microBatches"]) >= 1
    assert int(found["kvMemory"]) > 0
