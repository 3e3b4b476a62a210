"""Activations over real gloo pairs: order, bounds, and what a lost peer looks like."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch

from stageline_engine.comm.groups import GlooGroup, Group, Operation
from stageline_engine.comm.links import MAX_UNSENT, PairRecvLink, PairSendLink
from stageline_engine.comm.rendezvous import GroupEnd
from stageline_engine.comm.tensor_group import RankGroup
from stageline_engine.comm.wiring import boundary_wires, sends_feedback, takes_feedback, tensor_wires
from stageline_engine.core.errors import LinkFailedError
from support.link_news import PATIENCE, News, take

HIDDEN = 24
CPU = torch.device("cpu")

CHILD = """
import sys, torch
from stageline_engine.comm.rendezvous import GroupEnd
end = GroupEnd("pair", 1, 0, 2, torch.device("cpu"), lambda: None, one_way=True)
print(end.value().hex(), flush=True)
end.supply({1: bytes.fromhex(sys.stdin.readline())})
pair = end.join()
pair.send(torch.full((3, 24), 7.0), 1).wait()
print("sent", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def news() -> News:
    return News()


def pair_end(epoch: int, number: int, news: News) -> GroupEnd:
    return GroupEnd("pair", epoch, number, 2, CPU, news.notify, one_way=True)


def joined_pair(news: News) -> list[Group]:
    ends = [pair_end(1, number, news) for number in (0, 1)]
    values = {number: end.value() for number, end in enumerate(ends)}
    assert all(len(value) < 1024 for value in values.values())
    for end in ends:
        end.supply(values)
    news.wait_for(lambda: all(end.is_settled for end in ends))
    return [end.join() for end in ends]


def connect(news: News, dtype: torch.dtype = torch.float32) -> tuple[PairSendLink, PairRecvLink]:
    pairs = joined_pair(news)
    return (
        PairSendLink("pair", pairs[0], news.notify),
        PairRecvLink("pair", pairs[1], news.notify, HIDDEN, dtype, CPU),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_arrive_in_order_and_whole(news: News, dtype: torch.dtype) -> None:
    sender, receiver = connect(news, dtype)
    sent = [torch.randn(rows, HIDDEN).to(dtype) for rows in (1, 7, 4000, 3)]
    for hidden_TH in sent[:2]:
        receiver.expect(len(hidden_TH))
    for hidden_TH in sent:
        news.wait_for(lambda: not sender.is_full)
        sender.send(hidden_TH)
        if hidden_TH is sent[1]:
            for later_TH in sent[2:]:
                receiver.expect(len(later_TH))
    for hidden_TH in sent:
        assert torch.equal(take(receiver, news), hidden_TH)
    assert receiver.take() is None
    news.wait_for(lambda: not sender.is_full)
    sender.close()
    receiver.close()


def test_the_sender_sees_when_the_receiver_lags(news: News) -> None:
    sender, receiver = connect(news)
    for number in range(MAX_UNSENT):
        assert not sender.is_full
        sender.send(torch.full((2, HIDDEN), float(number)))
    assert sender.is_full
    receiver.expect(2)
    assert take(receiver, news)[0, 0] == 0
    news.wait_for(lambda: not sender.is_full)
    receiver.expect(2)
    assert take(receiver, news)[0, 0] == 1


class LatePair(GlooGroup):
    """Gloo with NCCL's restriction: a receive must not be pending while the rank runs other things."""

    posts_ahead = False

    def __init__(self, pair: Group) -> None:
        self._pair = pair
        self.posted: list[int] = []

    def recv(self, tensor: torch.Tensor, number: int) -> Operation:
        self.posted.append(len(tensor))
        return self._pair.recv(tensor, number)


def test_a_pair_that_must_not_post_ahead_posts_when_asked_and_one_at_a_time(news: News) -> None:
    pairs = joined_pair(news)
    late = LatePair(pairs[1])
    sender, receiver = (
        PairSendLink("pair", pairs[0], news.notify),
        PairRecvLink("pair", late, news.notify, HIDDEN, torch.float32, CPU),
    )
    for rows in (2, 5):
        receiver.expect(rows)
        sender.send(torch.full((rows, HIDDEN), float(rows)))
    assert late.posted == []
    assert take(receiver, news).shape == (2, HIDDEN)
    assert late.posted == [2]
    assert torch.equal(take(receiver, news), torch.full((5, HIDDEN), 5.0))
    assert late.posted == [2, 5]
    assert receiver.take() is None
    assert late.posted == [2, 5]


def test_a_killed_peer_is_noticed(news: News) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        end = pair_end(1, 1, news)
        child.stdin.write(end.value().hex() + "\n")
        child.stdin.flush()
        end.supply({0: bytes.fromhex(child.stdout.readline())})
        receiver = PairRecvLink("pair", end.join(), news.notify, HIDDEN, torch.float32, CPU)
        receiver.expect(3)
        assert torch.equal(take(receiver, news), torch.full((3, HIDDEN), 7.0))
        assert child.stdout.readline() == "sent\n"
        receiver.expect(3)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(LinkFailedError, match="pair"):
            take(receiver, news)
        with pytest.raises(LinkFailedError):
            receiver.expect(1)


def test_an_abandoned_end_leaves_nobody_waiting(news: News) -> None:
    abandoned, _ = connect(news)
    abandoned.close()
    lonely = pair_end(2, 0, news)
    assert lonely.value()
    sender, receiver = connect(news)
    receiver.expect(1)
    sender.send(torch.ones(1, HIDDEN))
    assert take(receiver, news).sum() == HIDDEN


def together(size: int, act: Callable[[RankGroup], torch.Tensor]) -> list[torch.Tensor]:
    """``act`` on every member of a group, each in its own thread."""
    groups = [RankGroup("tensor-0", rank, size) for rank in range(size)]
    results: dict[int, torch.Tensor] = {}
    for epoch in (1, 2):
        values = {group.rank: group.open(epoch, CPU, lambda: None) for group in groups}

        def be(group: RankGroup, values: dict[int, bytes] = values) -> None:
            group.supply(values)
            group.join()
            results[group.rank] = act(group)

        threads = [threading.Thread(target=be, args=(group,)) for group in groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    return [results[rank] for rank in range(size)]


@pytest.mark.parametrize("size", [2, 3])
def test_a_group_sums_to_the_same_bits_on_every_rank(size: int) -> None:
    parts = torch.randn(size, 5, 7, generator=torch.Generator().manual_seed(1))
    sums = together(size, lambda group: group.all_reduce(parts[group.rank].clone()))
    assert all(torch.equal(one, sums[0]) for one in sums)
    torch.testing.assert_close(sums[0], parts.sum(0))


@pytest.mark.parametrize("size", [2, 3])
def test_a_group_gathers_in_rank_order(size: int) -> None:
    parts = torch.arange(size * 6.0).reshape(size, 3, 2)
    # A view whose elements do not lie in order.
    gathered = together(size, lambda group: group.all_gather_last(parts[group.rank].t().contiguous().t()))
    for one in gathered:
        assert torch.equal(one, torch.cat(list(parts), dim=-1))


def test_a_member_that_leaves_wakes_those_that_wait_for_it() -> None:
    groups = [RankGroup("tensor-0", rank, 2) for rank in range(2)]
    values = {group.rank: group.open(1, CPU, lambda: None) for group in groups}
    for group in groups:
        group.supply(values)
    for group in groups:
        group.join()
    errors: list[LinkFailedError] = []
    begun = threading.Event()

    def wait_in_vain() -> None:
        begun.set()
        try:
            groups[1].all_reduce(torch.ones(3))
        except LinkFailedError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait_in_vain)
    waiting.start()
    begun.wait()
    groups[0].close()
    waiting.join(PATIENCE)
    assert len(errors) == 1


def test_ranks_are_wired_by_remainder() -> None:
    assert [wire.members for wire in boundary_wires([2, 3, 1])] == [
        ((0, 0), (1, 0)),
        ((0, 1), (1, 1)),
        ((0, 0), (1, 2)),
        ((1, 0), (2, 0)),
    ]
    assert [wire.members for wire in tensor_wires([2, 1, 3])] == [((0, 0), (0, 1)), ((2, 0), (2, 1), (2, 2))]
    names = [wire.name for wire in [*boundary_wires([2, 3, 1]), *tensor_wires([2, 3, 1])]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("tp_of_stages", "takers"),
    [([1], []), ([2], [(0, 1)]), ([1, 1], [(0, 0)]), ([2, 1], [(0, 0), (0, 1)])],
)
def test_step_results_go_to_stage_0(tp_of_stages: list[int], takers: list[tuple[int, int]]) -> None:
    members = [(stage, rank) for stage, size in enumerate(tp_of_stages) for rank in range(size)]
    assert [member for member in members if takes_feedback(member, tp_of_stages)] == takers
    assert [member for member in members if sends_feedback(member, tp_of_stages)] == [(len(tp_of_stages) - 1, 0)]
