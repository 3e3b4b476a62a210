"""NCCL between two GPUs, and what a lost peer looks like: for `make gpu-check`, not for `make test`. Not run yet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
import torch

from stageline_engine.comm import nccl
from stageline_engine.comm.groups import Group
from stageline_engine.comm.links import MAX_UNSENT, PairRecvLink, PairSendLink
from stageline_engine.comm.nccl import NcclGroup
from stageline_engine.comm.rendezvous import GroupEnd
from stageline_engine.comm.tensor_group import RankGroup
from stageline_engine.core.errors import LinkFailedError
from support.link_news import PATIENCE, News, take

GPUS = torch.cuda.device_count()
HIDDEN = 24
two_gpus = pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs, this machine has {GPUS}")
nccl.prepare_process()

CHILD = """
import sys, torch
from stageline_engine.comm import nccl
nccl.prepare_process()
from stageline_engine.comm.rendezvous import GroupEnd
one_way = sys.argv[1] == "pair"
end = GroupEnd(sys.argv[1], 1, 0, 2, torch.device("cuda", 0), lambda: None, one_way)
print(end.value().hex(), flush=True)
end.supply({1: bytes.fromhex(sys.stdin.readline())})
group = end.join()
tensor = torch.full((3, 24), 7.0, device="cuda:0")
if one_way:
    group.send(tensor, 1).wait()
else:
    group.all_reduce(tensor)
    torch.cuda.synchronize(0)
print("done", flush=True)
if sys.stdin.readline().startswith("leave"):
    end.close()
    print("left", flush=True)
    sys.stdin.readline()
"""


class Other:
    """Member 0, on the first GPU, in a process of its own. This process is member 1, on the second."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def go(self, how: str) -> None:
        if how == "killed":
            os.kill(self.process.pid, signal.SIGKILL)
        else:
            self.tell("leave")
            assert self.hear() == "left"


@contextmanager
def other(name: str) -> Iterator[Other]:
    made = Other(name)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def test_ranks_that_share_a_gpu_are_joined_through_host_memory() -> None:
    device = torch.device("cuda", 0)
    ends = [GroupEnd("pair", 1, number, 2, device, lambda: None, one_way=True) for number in (0, 1)]
    values = {number: end.value() for number, end in enumerate(ends)}
    for end in ends:
        end.supply(values)
    assert [end.join().memory.type for end in ends] == ["cpu", "cpu"]


@contextmanager
def joined(name: str) -> Iterator[tuple[Group, Other]]:
    """This process as member 1, once member 0 has done its first operation; that has still to be answered here."""
    with other(name) as child:
        end = GroupEnd(name, 1, 1, 2, torch.device("cuda", 1), lambda: None, one_way=name == "pair")
        child.tell(end.value().hex())
        end.supply({0: bytes.fromhex(child.hear())})
        group = end.join()
        assert isinstance(group, NcclGroup)
        try:
            yield group, child
        finally:
            end.close()


@two_gpus
@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_lost_sender_is_noticed(how: str) -> None:
    with joined("pair") as (pair, child):
        news = News()
        link = PairRecvLink("pair", pair, news.notify, HIDDEN, torch.float32, torch.device("cuda", 1))
        link.expect(3)
        assert torch.equal(take(link, news).cpu(), torch.full((3, HIDDEN), 7.0))
        assert child.hear() == "done"
        link.expect(3)
        assert link.take() is None
        child.go(how)
        with pytest.raises(LinkFailedError, match="member 0"):
            take(link, news)


@two_gpus
@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_lost_member_frees_the_gpu_that_waits_for_it(how: str) -> None:
    with joined("tensor") as (group, child):
        tensor = torch.ones(3, HIDDEN, device="cuda:1")
        group.all_reduce(tensor)
        assert torch.equal(tensor.cpu(), torch.full((3, HIDDEN), 8.0))
        assert child.hear() == "done"
        group.check()
        group.all_reduce(tensor)
        child.go(how)
        # Would wait for ever: the kernel waits for a member that never comes.
        torch.cuda.synchronize(1)
        with pytest.raises(RuntimeError, match="member 0"):
            group.check()


@two_gpus
def test_tensors_arrive_in_order_and_whole() -> None:
    devices = [torch.device("cuda", number) for number in (0, 1)]
    news = News()
    ends = [GroupEnd("pair", 1, number, 2, device, news.notify, one_way=True) for number, device in enumerate(devices)]
    values = {number: end.value() for number, end in enumerate(ends)}
    for end in ends:
        end.supply(values)
    news.wait_for(lambda: all(end.is_settled for end in ends))
    pairs = [end.join() for end in ends]
    sender = PairSendLink("pair", pairs[0], news.notify)
    receiver = PairRecvLink("pair", pairs[1], news.notify, HIDDEN, torch.bfloat16, devices[1])
    sent = [torch.randn(rows, HIDDEN, device=devices[0]).to(torch.bfloat16) for rows in (1, 7, 4000, 3)]
    for hidden_TH in sent:
        receiver.expect(len(hidden_TH))
    for hidden_TH in sent[:MAX_UNSENT]:
        sender.send(hidden_TH)
    for number, hidden_TH in enumerate(sent):
        assert torch.equal(take(receiver, news).cpu(), hidden_TH.cpu())
        news.wait_for(lambda: not sender.is_full)
        if number + MAX_UNSENT < len(sent):
            sender.send(sent[number + MAX_UNSENT])
    for end in ends:
        end.close()


@two_gpus
def test_a_group_is_joined_anew_in_each_epoch() -> None:
    groups = [RankGroup("tensor-0", rank, 2) for rank in range(2)]
    parts = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1))
    for epoch in (1, 2):
        values = {group.rank: group.open(epoch, torch.device("cuda", group.rank), lambda: None) for group in groups}
        results: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

        def act(group: RankGroup, results: dict[int, tuple[torch.Tensor, torch.Tensor]] = results) -> None:
            group.join()
            part = parts[group.rank].to(torch.device("cuda", group.rank))
            results[group.rank] = group.all_reduce(part.clone()).cpu(), group.all_gather_last(part).cpu()
            group.check()

        for group in groups:
            group.supply(values)
        threads = [Thread(target=act, args=(group,)) for group in groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        for rank in range(2):
            torch.testing.assert_close(results[rank][0], parts.sum(0))
            assert torch.equal(results[rank][0], results[0][0])
            assert torch.equal(results[rank][1], torch.cat(list(parts), dim=-1))
        for group in groups:
            group.close()
