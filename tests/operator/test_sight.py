"""Lists compared with what the watch told: what is refused, fails or takes long stops no other comparison for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from stageline_operator.api.errors import ApiError, ForbiddenError, UnavailableError
from stageline_operator.kube.client import Kube, Seen
from stageline_operator.kube.kinds import POD, RESOURCE, Kind
from stageline_operator.observe.store import Store
from stageline_operator.runtime.namespaces import Namespaces
from stageline_operator.runtime.sight import READ_AT_MOST, READ_EVERY, Sight


class Lists:
    """An API server with nothing in it.

    Attributes:
        answers: the error for a list in a namespace; None: it is empty.
        asked: kind and namespace of each list.
    """

    def __init__(self, answers: Callable[[str | None], ApiError | None]) -> None:
        self.answers = answers
        self.asked: list[tuple[Kind, str | None]] = []

    async def list_seen(self, kind: Kind, namespace: str | None, selector: str = "") -> AsyncIterator[list[Seen]]:
        self.asked.append((kind, namespace))
        error = self.answers(namespace)
        if error is not None:
            raise error
        yield []


class Time:
    """A clock that only sleep moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, sleeps: int) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._left = sleeps
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        if not self._left:
            raise asyncio.CancelledError
        self._left -= 1
        self.now += seconds
        self.slept.append(seconds)


def forbidden(namespace: str | None) -> ForbiddenError:
    return ForbiddenError(f"list pods in {namespace}: forbidden", 403)


def sight(lists: Lists, names: tuple[str | None, ...], time: Time, told: list[str]) -> Sight:
    namespaces = Namespaces(
        names, lambda name: told.append(f"{name} known"), lambda name: told.append(f"{name} refused")
    )
    kube = cast(Kube, lists)
    return Sight(kube, Store(), (RESOURCE, POD), namespaces, lambda name: True, lambda *_: None, lambda: time.now)


async def test_a_refused_namespace_is_left_out_and_asked_again_until_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    time, told = Time(monkeypatch, sleeps=3), list[str]()
    lists = Lists(lambda name: forbidden(name) if name == "team" and time.now < 10 else None)
    looking = sight(lists, ("home", "team"), time, told)
    await looking.first()
    assert told == ["team refused", "home known"]
    with pytest.raises(asyncio.CancelledError):
        await looking.admit()
    assert told == ["team refused", "home known", "team known"]
    assert lists.asked[-2:] == [(RESOURCE, "team"), (POD, "team")], "all of it is compared"


async def test_the_only_namespace_is_waited_for_when_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    time, told = Time(monkeypatch, sleeps=30), list[str]()
    await sight(Lists(lambda name: forbidden(name) if time.now < 20 else None), ("home",), time, told).first()
    assert told == ["home refused", "home known"]
    assert time.now >= 20


@pytest.mark.parametrize(
    ("names", "error"), [((None,), forbidden(None)), (("home", "team"), UnavailableError("list pods: 503", 503))]
)
async def test_everything_else_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str | None, ...], error: ApiError
) -> None:
    """A cluster-wide right that is missing, or an API server that fails, in one namespace of two."""
    time, told = Time(monkeypatch, sleeps=30), list[str]()
    lists = Lists(lambda name: error if name == names[-1] and time.now < 20 else None)
    await sight(lists, names, time, told).first()
    assert told == [f"{name} known" for name in names]
    assert time.now >= 20


async def test_a_namespace_that_is_refused_later_is_told_once_and_the_others_are_still_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time, told = Time(monkeypatch, sleeps=4), list[str]()
    lists = Lists(lambda name: forbidden(name) if name == "home" and time.now else None)
    looking = sight(lists, ("home", "team"), time, told)
    await looking.first()
    before = len(lists.asked)
    with pytest.raises(asyncio.CancelledError):
        await looking.watch()
    assert told == ["home known", "team known", "home refused"]
    assert lists.asked[before:].count((POD, "team")) == 4
    assert lists.asked[before:].count((RESOURCE, "home")) == 1
    assert time.slept == [READ_EVERY] * 4


async def test_the_pause_after_a_pass_in_which_every_call_took_its_time_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time, told = Time(monkeypatch, sleeps=3), list[str]()

    def slow(name: str | None) -> ApiError | None:
        time.now += 200.0
        return None

    looking = sight(Lists(slow), ("home",), time, told)
    await looking.first()
    with pytest.raises(asyncio.CancelledError):
        await looking.watch()
    assert time.slept == [READ_EVERY, READ_AT_MOST, READ_AT_MOST]
