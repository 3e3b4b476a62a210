"""An AsyncEngine whose surroundings misbehave: callbacks that raise, and paths that are too long."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import pytest

from stageline_engine.client.async_engine import AsyncEngine
from stageline_engine.client.launch import prepare
from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig
from stageline_engine.core.errors import EngineFailedError, EngineStartError
from stageline_engine.core.request import SamplingParams
from stageline_engine.engine.setup import CoreSetup
from support.processes import nothing_left
from support.tiny_models import tiny_model


@pytest.fixture(scope="module")
def setup() -> CoreSetup:
    config = EngineConfig(
        model=ModelConfig(model=str(tiny_model("llama")), max_model_len=64),
        parallel=ParallelConfig(threads=1),
        cache=CacheConfig(kv_memory=4 * 2**20),
    )
    return prepare(config, lambda line: None).setup


def socket_exists(engine: AsyncEngine) -> bool:
    return Path(engine.setup.endpoint.removeprefix("ipc://")).parent.exists()


async def test_a_progress_callback_that_raises_ends_the_start(setup: CoreSetup) -> None:
    def fail(line: str) -> None:
        raise RuntimeError("no place to print to")

    with nothing_left():
        async with asyncio.timeout(60):
            with pytest.raises(EngineStartError, match="no place to print to"):
                await AsyncEngine.start(setup, fail)


async def test_a_socket_is_found_a_place_where_temporary_paths_are_long(
    setup: CoreSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (long := tmp_path / ("x" * 120)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    engine = await AsyncEngine.start(setup, lambda line: None)
    try:
        outputs = [one async for one in engine.generate("r", [5, 6], SamplingParams(max_tokens=2, ignore_eos=True))]
        assert sum(len(one.token_ids) for one in outputs) == 2
    finally:
        await engine.close()
    assert os.listdir(long) == []
    assert not socket_exists(engine)


async def test_a_process_that_cannot_be_started_leaves_nothing(
    setup: CoreSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        await AsyncEngine.start(setup, lambda line: None)
    assert os.listdir(tmp_path) == []


async def test_a_message_that_cannot_be_read_ends_open_streams(
    setup: CoreSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await AsyncEngine.start(setup, lambda line: None)
    try:
        stream = engine.generate("r", [5, 6], SamplingParams(max_tokens=50, ignore_eos=True))
        await anext(stream)

        class Broken:
            def decode(self, message: bytes) -> object:
                raise ValueError("not a message")

        monkeypatch.setattr(engine, "_decoder", Broken())
        async with asyncio.timeout(60):
            with pytest.raises(EngineFailedError, match="not a message"):
                async for _ in stream:
                    pass
        assert not engine.is_alive
    finally:
        await engine.close()


LATE_CORE = """#!{python}
import os, time, msgspec, zmq
from stageline_engine.core.messages import EngineFailed
from stageline_engine.engine.process import _read_setup
endpoint = _read_setup().endpoint
core = os.getpid()
if os.fork():
    os._exit(1)
while os.getppid() == core:
    pass
# The core is gone, and what it said is slow to come.
time.sleep(0.5)
with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
    socket.connect(endpoint)
    socket.send(msgspec.msgpack.encode(EngineFailed(message="stage 1 rank 0 said why")))
"""


async def test_the_last_words_of_a_core_are_heard_after_its_end(
    setup: CoreSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (late := tmp_path / "core").write_text(LATE_CORE.format(python=sys.executable))
    late.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(late))
    with pytest.raises(EngineStartError, match="stage 1 rank 0 said why"):
        await AsyncEngine.start(setup, lambda line: None)


async def test_an_id_may_be_used_again_at_once_after_its_request_was_left(setup: CoreSetup) -> None:
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    engine = await AsyncEngine.start(setup, lambda line: None)
    try:
        outputs = [output async for output in engine.generate("first", [5, 6, 7], params)]
        for _ in range(5):
            left = engine.generate("again", [9, 9], params)
            await anext(left)
            await left.aclose()
            again = [output async for output in engine.generate("again", [5, 6, 7], params)]
            assert [output.token_ids for output in again] == [output.token_ids for output in outputs]
            assert {output.request_id for output in again} == {"again"}
    finally:
        await engine.close()
