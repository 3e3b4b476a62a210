"""What a head answers is believed only as far as the status can hold it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stageline_operator.api.constants import PATH_STATE
from stageline_operator.observe.heads import Heads
from support.operator import pods as pod_states
from support.operator.simulation import settled

STAGE = {"stage": 0, "pod": "demo-0-s0-0", "state": "member", "layers": [0, 19], "tensor_parallel": 1}
ANSWER = {"epoch": 1, "ready": True, "draining": False, "stages": [STAGE], "settings": {"max_num_seqs": 64}}


async def error_of(answer: dict[str, Any]) -> str:
    """What is wrong with a head's answer; "" when nothing is."""

    async def respond(_: web.Request) -> web.Response:
        return web.json_response(answer)

    app = web.Application()
    app.router.add_get(PATH_STATE, respond)
    async with TestServer(app) as server:
        assert server.port is not None
        heads = Heads(server.port)
        try:
            pod = pod_states.running(settled().pods["demo-0-head-0"])
            return (await heads.ask(replace(pod, address="127.0.0.1"))).error
        finally:
            await heads.close()


async def test_an_answer_as_it_should_be_has_no_error() -> None:
    assert await error_of(ANSWER) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": -1},
        {"epoch": 2**40},
        {"stages": [STAGE | {"layers": [0, 10**300]}]},
        {"stages": [STAGE | {"layers": [-1, 19]}]},
        {"stages": [STAGE | {"stage": -1}]},
    ],
    ids=str,
)
async def test_an_answer_with_numbers_that_no_engine_has_is_an_error(wrong: dict[str, Any]) -> None:
    assert "its answer is not as expected: Input should be" in await error_of(ANSWER | wrong)
