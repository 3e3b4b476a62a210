"""The status port at its door: what it says of a head whose start, loop or engine is not as it should be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest

from stageline_engine.core.config import EngineConfig, ModelConfig, ParallelConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.core.messages import STAGE_LOADING, STAGE_MEMBER, PipelineState, StageMember
from stageline_engine.server.app import begin_draining, create_app
from stageline_engine.server.head import LIVE_SECONDS, Head
from stageline_engine.server.run import listen
from stageline_engine.server.settings import ServerSettings
from stageline_engine.server.status import status_port
from stageline_engine.text.tokenizer import Tokenizer
from support.scripted_engine import ScriptedEngine, tokens

CONFIG = EngineConfig(model=ModelConfig(model="some/model"), parallel=ParallelConfig(stages=2, tp=(2, 1)))


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def head(clock: Clock) -> Head:
    return Head(CONFIG, {"drain_timeout": 30.0}, clock)


@pytest.fixture
def http(head: Head) -> Iterator[httpx.Client]:
    with (
        contextlib.closing(listen("127.0.0.1", 0)) as listener,
        status_port(head, listener),
        httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client,
    ):
        yield client


def test_a_head_that_has_only_begun_says_so(http: httpx.Client) -> None:
    answer = http.get("/state").json()
    stages = answer["stages"]
    assert (answer["epoch"], answer["ready"], answer["draining"]) == (0, False, False)
    assert [(stage["state"], stage["pod"], stage["layers"]) for stage in stages] == [("absent", "", None)] * 2
    assert [stage["tensor_parallel"] for stage in stages] == [2, 1]
    assert answer["settings"]["drain_timeout"] == 30
    assert answer["settings"]["dtype"] is None, "not decided yet"
    refused = http.get("/ready")
    assert refused.status_code == 503
    assert refused.json()["reason"] == "the engine is starting"
    assert http.get("/live").status_code == 200


def test_stages_are_as_the_engine_core_told_last(http: httpx.Client, head: Head) -> None:
    for epoch, word in ((0, STAGE_LOADING), (3, STAGE_MEMBER)):
        member = StageMember(stage=0, pod="demo-s0", state=word, layers=(0, 9), tensor_parallel=2)
        head.saw(PipelineState(epoch=epoch, stages=[member]))
        answer = http.get("/state").json()
        assert answer["epoch"] == epoch
        assert answer["stages"] == [
            {"stage": 0, "pod": "demo-s0", "state": word, "layers": [0, 9], "tensor_parallel": 2}
        ]


def test_it_is_live_as_long_as_the_servers_loop_moves(http: httpx.Client, head: Head, clock: Clock) -> None:
    clock.now = 1000.0
    assert http.get("/live").status_code == 200, "there is no loop yet"
    head.beat()
    clock.now += LIVE_SECONDS / 2
    assert http.get("/live").status_code == 200
    clock.now += LIVE_SECONDS
    assert http.get("/live").status_code == 503
    head.beat()
    assert http.get("/live").status_code == 200


def test_readiness_is_that_of_the_api_and_ends_with_draining(
    http: httpx.Client, head: Head, tokenizer: Tokenizer
) -> None:
    engine = ScriptedEngine(lambda prompt, params: tokens([70]))
    app = create_app(engine, tokenizer, ServerSettings(served_model_name="tiny"))
    head.serves(app.state.context)
    assert http.get("/ready").status_code == 200
    assert http.get("/state").json()["ready"] is True
    engine.reason = "no token went through all stages for 7.0 s"
    assert http.get("/ready").json()["reason"] == engine.reason
    assert http.get("/state").json()["ready"] is False
    engine.reason = None
    begin_draining(app)
    answer = http.get("/state").json()
    assert (answer["ready"], answer["draining"]) == (False, True)
    assert http.get("/ready").status_code == 503
    app.state.context.close()


def test_a_head_that_ends_before_it_served_drains(http: httpx.Client, head: Head) -> None:
    head.ends()
    assert http.get("/state").json()["draining"] is True


def test_the_flag_at_fault_is_named() -> None:
    with contextlib.closing(listen("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"--status-port='127.0.0.1:{port}'"):
            listen("127.0.0.1", port, flags=("--status-host", "--status-port"))
