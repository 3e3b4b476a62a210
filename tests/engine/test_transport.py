"""What stands behind NCCL groups and needs no GPU: the choice of transport, the store, and the lifeline, over gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import pytest
import torch
from torch._C._distributed_c10d import FileStore, HashStore, PrefixStore, Store
from torch.distributed import ProcessGroupGloo

from stageline_engine.comm.group_store import GroupStore
from stageline_engine.comm.groups import GlooGroup, TorchGroup
from stageline_engine.comm.lifeline import Lifeline
from stageline_engine.comm.rendezvous import GroupEnd
from stageline_engine.comm.transport import HOST, can_use_nccl, place_of

PATIENCE = 30.0
SHORT = timedelta(seconds=3)
UNIQUE_ID = bytes(range(128))
"""As long as NCCL's, with zeros and bytes that are no text."""

CHILD = """
import sys, torch
from torch._C._distributed_c10d import FileStore
from torch.distributed import ProcessGroupGloo
from stageline_engine.comm.lifeline import Lifeline
print("imported", flush=True)
options = ProcessGroupGloo._Options()
options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
options._threads = 1
group = ProcessGroupGloo(FileStore(sys.argv[1], 2), 0, 2, options)
line = Lifeline("line", group, 0, 2, lambda reason: None)
print("watching", flush=True)
sys.stdin.readline()
"""


def gloo(store: Store, number: int, size: int, limit: timedelta = timedelta(seconds=PATIENCE)) -> TorchGroup:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._threads = 1
    options._timeout = limit
    return cast(TorchGroup, ProcessGroupGloo(store, number, size, options))


@contextmanager
def members(
    size: int, limit: timedelta = timedelta(seconds=PATIENCE)
) -> Iterator[tuple[list[TorchGroup], ThreadPoolExecutor]]:
    """Members of one group, and a thread for each."""
    store = HashStore()
    with ThreadPoolExecutor(size) as threads:
        joining = [threads.submit(gloo, store, number, size, limit) for number in range(size)]
        yield [future.result(PATIENCE) for future in joining], threads


@pytest.mark.parametrize(
    ("places", "nccl"),
    [
        ([HOST, HOST], False),
        (["gpu-a", HOST], False),
        ([HOST, "gpu-a"], False),
        (["gpu-a", "gpu-a"], False),
        (["gpu-a", "gpu-b"], True),
        (["gpu-a", "gpu-b", "gpu-c"], True),
        (["gpu-a", "gpu-b", "gpu-a"], False),
        (["gpu-a", "gpu-b", HOST], False),
    ],
)
def test_nccl_joins_gpus_of_their_own_and_nothing_else(places: Sequence[str], nccl: bool) -> None:
    assert can_use_nccl(places) is nccl


def test_a_cpus_tensors_lie_in_host_memory() -> None:
    assert place_of(torch.device("cpu")) == HOST


def test_members_learn_where_the_others_tensors_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's rank next to a CPU's: both come to gloo. A device without data stands for the GPU."""
    places = {"cpu": HOST, "meta": "gpu-a"}
    monkeypatch.setattr("stageline_engine.comm.rendezvous.place_of", lambda device: places[device.type])
    ends = [
        GroupEnd("pair", 1, number, 2, torch.device(device), lambda: None, one_way=True)
        for number, device in enumerate(("meta", "cpu"))
    ]
    values = {number: end.value() for number, end in enumerate(ends)}
    for end in ends:
        end.supply(values)
    assert all(isinstance(end.join(), GlooGroup) for end in ends)


@pytest.mark.parametrize("size", [2, 3])
def test_what_member_0_sets_the_others_get(size: int) -> None:
    with members(size) as (groups, threads):
        stores = [GroupStore(group, number, size) for number, group in enumerate(groups)]
        # As torch does it: through a prefix, from C++, by get (ProcessGroupNCCL) or wait and multi_get (its successor).
        through = [PrefixStore("epoch 1 pair", store) for store in stores]
        got = [threads.submit(store.get, "0:1") for store in through[1:]]
        # A key that nobody asks for does no harm.
        through[0].set("unasked", "1")
        through[0].set("0:1", cast(str, UNIQUE_ID))
        assert [future.result(PATIENCE) for future in got] == [UNIQUE_ID] * (size - 1)
        assert through[0].get("0:1") == UNIQUE_ID
        through[0].set("nccl_storekey_0", cast(str, UNIQUE_ID[::-1]))
        for store in through[1:]:
            store.wait(["nccl_storekey_0"], timedelta(seconds=1))
            assert store.multi_get(["nccl_storekey_0"]) == [UNIQUE_ID[::-1]]
            assert store.check(["0:1"])
            assert not store.check(["exception_dump"])


@pytest.mark.parametrize("size", [2, 3])
def test_a_member_that_leaves_is_noticed_by_all_others(size: int) -> None:
    with members(size) as (groups, _):
        lost: SimpleQueue[tuple[int, str]] = SimpleQueue()
        lines = [
            Lifeline("line", group, number, size, lambda reason, number=number: lost.put((number, reason)))  # type: ignore[misc]
            for number, group in enumerate(groups)
        ]
        lines[1].close()
        told = {lost.get(timeout=PATIENCE) for _ in range(size - 1)}
        assert told == {(number, "member 1 has left") for number in range(size) if number != 1}
        # The others leave, too: no thread stays.
        for line in (lines[0], *lines[2:]):
            line.close()
        for _ in range((size - 1) ** 2):
            lost.get(timeout=PATIENCE)


def test_silence_is_no_loss_however_long_it_takes() -> None:
    """The group's own limit, which ends other waits, does not end this one."""
    with members(2, SHORT) as (groups, _):
        lost: SimpleQueue[str] = SimpleQueue()
        lines = [Lifeline("line", group, number, 2, lost.put) for number, group in enumerate(groups)]
        # Outlasts the limit: this receive was posted later than the lifelines', in groups with the same limit.
        with members(2, SHORT) as (others, _), pytest.raises(RuntimeError):
            others[0].recv([torch.empty(1)], 1, 0).wait()
        assert lost.empty()
        for line in lines:
            line.close()
        assert {lost.get(timeout=PATIENCE) for _ in lines} == {"member 0 has left", "member 1 has left"}


def test_a_killed_member_is_noticed(tmp_path: Path) -> None:
    path = str(tmp_path / "store")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        # Which takes longer than a group's members wait for each other, where much else runs.
        assert child.stdout.readline() == "imported\n"
        group = gloo(FileStore(path, 2), 1, 2)
        lost: SimpleQueue[str] = SimpleQueue()
        Lifeline("line", group, 1, 2, lost.put)
        assert child.stdout.readline() == "watching\n"
        assert lost.empty()
        os.kill(child.pid, signal.SIGKILL)
        assert lost.get(timeout=PATIENCE).startswith("member 0 is gone")
