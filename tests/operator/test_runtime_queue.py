"""The queue of dirty keys: each once, one task at a time, backing off while it fails."""

from __future__ import annotations

import asyncio

from stageline_operator.runtime.queue import FIRST_BACK_OFF, LONGEST_BACK_OFF, Queue

KEY = ("default", "demo")
OTHER = ("default", "other")


def queue() -> Queue:
    return Queue(jitter=lambda: 0.0)


async def test_a_key_that_is_added_often_comes_once() -> None:
    keys = queue()
    for _ in range(3):
        keys.add(KEY)
    keys.add(OTHER)
    assert len(keys) == 2
    assert [await keys.get(), await keys.get()] == [KEY, OTHER]
    assert len(keys) == 0


async def test_a_key_that_becomes_dirty_while_it_is_worked_on_comes_again_afterwards() -> None:
    keys = queue()
    keys.add(KEY)
    assert await keys.get() == KEY
    keys.add(KEY)
    assert len(keys) == 0
    keys.done(KEY)
    assert await keys.get() == KEY


async def test_a_key_that_fails_backs_off_longer_each_time() -> None:
    keys = queue()
    waits = []
    for _ in range(12):
        keys.add(KEY, at_once=True)
        await keys.get()
        waits.append(keys.failed(KEY))
    assert waits[:3] == [FIRST_BACK_OFF, 2 * FIRST_BACK_OFF, 4 * FIRST_BACK_OFF]
    assert waits[-1] == LONGEST_BACK_OFF
    keys.add(KEY, at_once=True)
    await keys.get()
    keys.done(KEY)
    keys.add(KEY)
    await keys.get()
    assert keys.failed(KEY) == FIRST_BACK_OFF


async def test_news_do_not_end_a_back_off_but_a_person_does() -> None:
    keys = queue()
    keys.add(KEY)
    await keys.get()
    keys.failed(KEY)
    keys.add(KEY)
    assert len(keys) == 0
    keys.add(KEY, at_once=True)
    assert len(keys) == 1


async def test_what_the_api_server_asks_for_is_waited_for_whoever_comes() -> None:
    keys = queue()
    keys.add(KEY)
    await keys.get()
    assert keys.failed(KEY, retry_after=7.0) == 7.0
    keys.add(KEY, at_once=True)
    assert len(keys) == 0


async def test_a_key_comes_back_by_itself_after_its_back_off() -> None:
    keys = queue()
    keys.add(KEY)
    await keys.get()
    keys.failed(KEY)
    assert await asyncio.wait_for(keys.get(), 10) == KEY


async def test_of_two_times_to_look_again_the_earlier_counts() -> None:
    keys = queue()
    keys.add_after(KEY, 3600)
    keys.add_after(KEY, 0.01)
    keys.add_after(KEY, 1800)
    assert await asyncio.wait_for(keys.get(), 10) == KEY


async def test_a_closed_queue_gives_out_nothing() -> None:
    keys = queue()
    waiting = asyncio.create_task(keys.get())
    await asyncio.sleep(0)
    keys.add(KEY)
    keys.close()
    assert await waiting is None


async def test_routine_looks_give_way_to_what_has_just_happened() -> None:
    keys = queue()
    routine = [("default", f"demo-{number}") for number in range(3)]
    for key in routine:
        keys.add_routine(key)
    assert len(keys) == 3
    assert await keys.get() == routine[0]
    keys.add(OTHER)
    keys.add(routine[2])
    assert [await keys.get() for _ in range(3)] == [OTHER, routine[2], routine[1]]
    assert len(keys) == 0


async def test_a_routine_look_of_a_key_that_is_worked_on_comes_afterwards() -> None:
    keys = queue()
    keys.add(KEY)
    assert await keys.get() == KEY
    keys.add_routine(KEY)
    keys.add_routine(OTHER)
    assert await keys.get() == OTHER
    keys.done(KEY)
    assert await keys.get() == KEY


async def test_a_routine_look_does_not_end_a_back_off() -> None:
    keys = queue()
    keys.add(KEY)
    await keys.get()
    keys.failed(KEY)
    keys.add_routine(KEY)
    keys.add_routine(OTHER)
    assert await keys.get() == OTHER
    assert len(keys) == 0


async def test_a_refusal_in_a_key_is_tried_again_later_each_time_and_keeps_no_news_waiting() -> None:
    keys = queue()
    for _ in range(12):
        keys.add(KEY)
        assert len(keys) == 1
        await keys.get()
        keys.done(KEY, is_hindered=True)
    keys.add(KEY)
    await keys.get()
    assert keys.failed(KEY) == FIRST_BACK_OFF, "a failure of another kind backs off by itself"


async def test_a_key_with_a_refusal_comes_back_by_itself() -> None:
    keys = queue()
    keys.add(KEY)
    await keys.get()
    keys.done(KEY, is_hindered=True)
    assert await asyncio.wait_for(keys.get(), 10) == KEY
