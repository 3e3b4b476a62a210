"""A start may last as long as it shows signs of life."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from stageline_engine.client import patience
from stageline_engine.client.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still; the event loop's own goes on."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.mark.parametrize("is_heard", [True, False])
async def test_it_counts_from_the_last_sign_of_life(clock: SimpleNamespace, is_heard: bool) -> None:
    lasting = Patience(10)
    clock.now = 9.0
    if is_heard:
        lasting.listening(print)("a line")
    clock.now = 18.0
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    if is_heard:
        asyncio.get_running_loop().call_soon(future.set_result, 7)
        assert await lasting.wait(future) == 7
    else:
        with pytest.raises(TimeoutError):
            await lasting.wait(future)
        assert future.cancelled()


async def test_what_went_wrong_meanwhile_is_raised(clock: SimpleNamespace) -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_exception(ValueError("because"))
    with pytest.raises(ValueError, match="because"):
        await Patience(10).wait(future)
