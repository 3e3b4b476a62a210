"""Owns the ranks of one machine: has them forked, watches them, keeps their logs, kills and replaces them.

    engine core (NodeAgent)  ⇄  fork parent  →  ranks

It lives in a process without torch and has no thread: whoever owns it waits for :meth:`NodeAgent.fileno` and calls
:meth:`NodeAgent.poll`. The kernel kills the fork parent when the agent's process ends, and the ranks with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from stageline_engine.agent.protocol import (
    MAX_DATAGRAM,
    AgentMessage,
    Exited,
    Fork,
    Forked,
    ForkParentMessage,
    Preloaded,
    Signal,
)
from stageline_engine.agent.rank_log import RankLog
from stageline_engine.comm.commands import LOOPBACK, RankBoot, RankId
from stageline_engine.comm.rank_counters import RankCounters, RankCounts

_COLLECT_SECONDS = 2.0
"""From the SIGKILL of the ranks until the fork parent itself is killed, and with it whatever it could not collect."""


@dataclass(frozen=True)
class RankDied:
    """A rank has ended, for whatever reason. ``exit_code`` is negative for a signal."""

    boot: RankBoot
    exit_code: int
    reason: str
    log_tail: str


@dataclass
class _Rank:
    boot: RankBoot
    log: RankLog
    counters: RankCounters
    pid: int | None = None
    """None until the fork parent has answered, and after the end."""
    has_ended: bool = False

    def close(self) -> None:
        self.log.close()
        self.counters.close()


class NodeAgent:
    """See the module. Use it from one thread: the kernel ties the fork parent's life to the thread that started it.

    Args:
        architecture: transformers class name of the model, to be imported ahead; "" imports none.
        threads: CPU threads per rank; must be known before torch is imported.
        own_address: of this machine, as its ranks are told.
    """

    def __init__(self, architecture: str, threads: int, own_address: str = LOOPBACK) -> None:
        self._epoll = select.epoll()
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(ForkParentMessage)
        self._ranks: dict[RankId, _Rank] = {}
        self._died: list[RankDied] = []
        self.is_preloaded = False
        """Whether the fork parent has imported everything."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._parent_log = RankLog("fork parent")
        with theirs:
            self._parent = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "stageline_engine.agent.fork_parent",
                    str(theirs.fileno()),
                    str(os.getpid()),
                    architecture,
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._parent_log.write_end,
                stderr=self._parent_log.write_end,
                pass_fds=[theirs.fileno()],
                env=_environment(os.environ, threads, own_address),
            )
        self._parent_log.release_write_end()
        self._epoll.register(self._socket, select.EPOLLIN)
        self._epoll.register(self._parent_log, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when :meth:`poll` has something to do; stays the same for the agent's life."""
        return self._epoll.fileno()

    def start(self, boot: RankBoot) -> None:
        """Have a rank forked, in the place of a predecessor that has ended. Does not wait."""
        log = RankLog(f"stage {boot.stage} rank {boot.rank}", stage=boot.stage, rank=boot.rank)
        previous = self._ranks.pop((boot.stage, boot.rank), None)
        if previous is not None:
            assert previous.has_ended, "two processes in one place"
            self._forget(previous)
        counters = RankCounters()
        self._ranks[boot.stage, boot.rank] = _Rank(boot, log, counters)
        self._epoll.register(log, select.EPOLLIN)
        self._tell(Fork(boot), log.write_end, counters.descriptor)
        log.release_write_end()

    def poll(self) -> list[RankDied]:
        """Take what the fork parent and the ranks said, without waiting; returns the ranks that ended since."""
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._socket.fileno():
                self._hear()
            else:
                self._read_log(descriptor)
        died, self._died = self._died, []
        return died

    def pid(self, rank_id: RankId) -> int | None:
        """Process id of a rank; None before it exists and after it ended."""
        rank = self._ranks.get(rank_id)
        return None if rank is None else rank.pid

    def counts(self, rank_id: RankId) -> RankCounts:
        """What a rank has counted of itself; not after :meth:`close`."""
        return self._ranks[rank_id].counters.read()

    def log_tail(self, rank_id: RankId) -> str:
        """The last lines that a rank wrote."""
        rank = self._ranks.get(rank_id)
        if rank is None:
            return ""
        rank.log.read()
        return rank.log.tail()

    def kill(self, rank_id: RankId) -> None:
        """SIGKILL; its end is told by :meth:`poll`. Nothing happens when it has ended."""
        pid = self.pid(rank_id)
        if pid is not None:
            self._tell(Signal(pid, signal.SIGKILL))

    def close(self) -> None:
        """End every rank and the fork parent within 2 s. May be called twice.

        They are killed and not asked: none of them has anything to put in order, and on a machine under load every
        step of a polite end costs a time of its own.
        """
        if self._epoll.closed:
            return
        # A fork parent that still imports has no ranks, and hears nothing.
        if self.is_preloaded:
            self._end_ranks()
        self._parent.kill()
        self._parent.wait()
        self._socket.close()
        self._epoll.close()
        self._parent_log.close()
        for rank in self._ranks.values():
            rank.close()

    def _end_ranks(self) -> None:
        deadline = time.monotonic() + _COLLECT_SECONDS
        killed: set[RankId] = set()
        while not all(rank.has_ended for rank in self._ranks.values()):
            # A rank may have been forked without its process id being known yet.
            for rank_id in [one for one in self._ranks if one not in killed and self.pid(one) is not None]:
                self.kill(rank_id)
                killed.add(rank_id)
            left = deadline - time.monotonic()
            if left <= 0:
                return
            select.select([self._epoll], [], [], left)
            self.poll()

    def _tell(self, message: AgentMessage, *descriptors: int) -> None:
        # A fork parent that has ended is noticed by poll().
        with suppress(BrokenPipeError, ConnectionResetError):
            data = self._encoder.encode(message)
            socket.send_fds(self._socket, [data], descriptors)

    def _hear(self) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            if not data:
                self._lose_parent()
                return
            self._take(self._decoder.decode(data))

    def _take(self, message: ForkParentMessage) -> None:
        if isinstance(message, Preloaded):
            self.is_preloaded = True
        elif isinstance(message, Forked):
            self._ranks[message.stage, message.rank].pid = message.pid
        elif isinstance(message, Exited):
            rank = next(rank for rank in self._ranks.values() if rank.pid == message.pid)
            self._note_death(rank, message.exit_code, _describe(message.exit_code))

    def _note_death(self, rank: _Rank, exit_code: int, reason: str, more_log: str = "") -> None:
        rank.pid, rank.has_ended = None, True
        rank.log.read()
        self._died.append(RankDied(rank.boot, exit_code, reason, rank.log.tail() + more_log))

    def _lose_parent(self) -> None:
        """The kernel has killed its ranks."""
        self._epoll.unregister(self._socket)
        exit_code = self._parent.wait()
        self._parent_log.read()
        reason = "ended while it imported the model's class" if not self.is_preloaded else "was lost"
        for rank in self._ranks.values():
            if not rank.has_ended:
                self._note_death(
                    rank, exit_code, f"the process that ranks are forked from {reason}", self._parent_log.tail()
                )

    def _read_log(self, descriptor: int) -> None:
        logs = [self._parent_log, *(rank.log for rank in self._ranks.values())]
        log = next(log for log in logs if log.fileno() == descriptor)
        if not log.read():
            self._epoll.unregister(descriptor)

    def _forget(self, rank: _Rank) -> None:
        with suppress(FileNotFoundError):
            self._epoll.unregister(rank.log)
        rank.close()


def read_architecture(model_folder: str) -> str:
    """The transformers class that a folder's config.json names; "" when it cannot be read: a rank will explain it."""
    try:
        config = json.loads((Path(model_folder) / "config.json").read_text())
        return str(config["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return "the process ended"
    name = signal.Signals(-exit_code).name
    # The kernel's own reason for SIGKILL, and the most common one for a process that holds a model.
    hint = ", perhaps by the kernel for lack of memory" if -exit_code == signal.SIGKILL else ""
    return f"the process was ended by {name}{hint}"


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an IP address; None: no interface has it."""
    for name, addresses in psutil.net_if_addrs().items():
        # An IPv6 address of one link is followed by its interface.
        if any(address == found.address.partition("%")[0] for found in addresses):
            return name
    return None


def _environment(inherited: Mapping[str, str], threads: int, own_address: str) -> dict[str, str]:
    """What torch reads when it is imported; later changes have no effect."""
    interface = interface_of(own_address)
    return {
        **inherited,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Our own address for gloo, should any part of it look for one by itself.
        **({} if interface is None else {"GLOO_SOCKET_IFNAME": interface}),
        "TOKENIZERS_PARALLELISM": "false",
        # A rank's last words must not be lost in a buffer.
        "PYTHONUNBUFFERED": "1",
    }
