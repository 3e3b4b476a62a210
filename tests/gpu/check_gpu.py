"""What only a GPU can show: `make gpu-check` runs it, `make test` never looks at it.

With one GPU: parity of every family, and two stages that share it. With two or more, NCCL: parity of cut pipelines, and
what a lost peer looks like. None of it has been run yet.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Thread

import msgspec
import pytest
import torch

from stageline_engine.comm import nccl
from stageline_engine.comm.groups import Group
from stageline_engine.comm.links import MAX_UNSENT, PairRecvLink, PairSendLink
from stageline_engine.comm.nccl import NcclGroup
from stageline_engine.comm.rendezvous import GroupEnd
from stageline_engine.comm.tensor_group import RankGroup
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import LinkFailedError, StageFailedError
from stageline_engine.executor.local import LocalExecutor
from support.executor_driver import NUM_BLOCKS, ExecutorDriver, stage_settings
from support.processes import nothing_left
from support.tiny_models import FAMILIES, LAYERS, parity_prompts, reference_greedy, tiny_model

GPUS = torch.cuda.device_count()
nccl.prepare_process()

LENGTHS = [7, 2, 9, 1]
PROMPTS = [[5, 9, 2, 71, 30, 8, 1], [200, 3]]
MAX_TOKENS = 9
HIDDEN = 24
PATIENCE = 60.0


def needs(count: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(count > GPUS, reason=f"needs {count} GPUs, this machine has {GPUS}")


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


class News:
    """Counts what links tell, and waits for it."""

    def __init__(self) -> None:
        self._changed = Condition()

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), "nothing happened"


def take(link: PairRecvLink, news: News) -> torch.Tensor:
    taken: list[torch.Tensor] = []

    def is_there() -> bool:
        if (hidden_TH := link.take()) is not None:
            taken.append(hidden_TH)
        return hidden_TH is not None

    news.wait_for(is_there)
    return taken[0]


def on_gpus(
    family: str, bounds: Sequence[int], tp: Sequence[int], first_devices: Sequence[int] = ()
) -> list[RankSettings]:
    firsts = first_devices or [sum(tp[:stage]) for stage in range(len(tp))]
    return [
        msgspec.structs.replace(stage, device="cuda", first_device=first)
        for stage, first in zip(stage_settings(tiny_model(family), bounds, tp), firsts, strict=True)
    ]


def check_parity(driver: ExecutorDriver, family: str) -> None:
    """Transformers' greedy tokens, on a CPU, twice: the second time blocks and links have been used."""
    folder = tiny_model(family)
    prompts = parity_prompts(folder, LENGTHS, MAX_TOKENS)
    expected = reference_greedy(folder, prompts, MAX_TOKENS)
    for _ in range(2):
        assert driver.generate(prompts, MAX_TOKENS) == expected


@contextmanager
def running(settings: Sequence[RankSettings]) -> Iterator[tuple[ExecutorDriver, list[list[int]]]]:
    """A driver, and the process ids of the ranks by stage."""
    with nothing_left():
        executor = LocalExecutor()
        started = executor.start(settings, lambda loaded: NUM_BLOCKS, print, 1)
        try:
            yield ExecutorDriver(executor), started.rank_pids
        finally:
            executor.close()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_one_stage_gives_the_tokens_of_a_cpu(family: str) -> None:
    with running(on_gpus(family, [0, LAYERS], [1])) as (driver, _):
        check_parity(driver, family)


def test_two_stages_share_a_gpu() -> None:
    with running(on_gpus("llama", [0, 2, LAYERS], [1, 1], [0, 0])) as (driver, _):
        check_parity(driver, "llama")


def test_ranks_that_share_a_gpu_are_joined_through_host_memory() -> None:
    device = torch.device("cuda", 0)
    ends = [GroupEnd("pair", 1, number, 2, device, lambda: None, one_way=True) for number in (0, 1)]
    values = {number: end.value() for number, end in enumerate(ends)}
    for end in ends:
        end.supply(values)
    assert [end.join().memory.type for end in ends] == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("bounds", "tp"),
    [
        pytest.param([0, 2, LAYERS], [1, 1], marks=needs(2)),
        pytest.param([0, LAYERS], [2], marks=needs(2)),
        pytest.param([0, 1, 3, LAYERS], [1, 1, 1], marks=needs(3)),
        pytest.param([0, 2, LAYERS], [2, 1], marks=needs(3)),
        pytest.param([0, 2, LAYERS], [1, 2], marks=needs(3)),
        pytest.param([0, 2, LAYERS], [2, 2], marks=needs(4)),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_cut_pipelines_give_the_tokens_of_a_cpu_over_nccl(bounds: Sequence[int], tp: Sequence[int]) -> None:
    with running(on_gpus("llama", bounds, tp)) as (driver, _):
        check_parity(driver, "llama")


@needs(2)
@pytest.mark.parametrize(("bounds", "tp"), [([0, 2, LAYERS], [1, 1]), ([0, LAYERS], [2])], ids=["stages", "tp"])
def test_the_death_of_a_rank_is_named(bounds: Sequence[int], tp: Sequence[int]) -> None:
    with running(on_gpus("llama", bounds, tp)) as (driver, pids):
        driver.generate(PROMPTS, MAX_TOKENS)
        os.kill(pids[-1][-1], signal.SIGKILL)
        with pytest.raises(StageFailedError, match="SIGKILL"):
            driver.generate(PROMPTS, MAX_TOKENS)


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


@needs(2)
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


@needs(2)
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


@needs(2)
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


@needs(2)
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
