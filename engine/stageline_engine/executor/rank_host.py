"""Rank processes of this machine, reachable: one node agent and one keyed channel, and the judgement of who failed.

send ──▶ channel ──▶ ranks        collect ◀── channel ◀── ranks
                                  collect ◀── agent   ◀── fork parent (a rank ended)
                                  collect ◀── fetch   ◀── child (weights of this machine's ranks came, or cannot)
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import zmq

from stageline_engine.agent.node_agent import NodeAgent, RankDied, read_architecture
from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.commands import Hello, RankBoot, RankFailed, RankId, RankReply
from stageline_engine.comm.curve import KeyedContext, new_keys
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError, StageFailedError, StaleEpochError
from stageline_engine.executor.rank_setup import Reply, all_members
from stageline_engine.sources import fetch

_log = logging.getLogger(__name__)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SETTLE_SECONDS = 1.0
"""A rank that lost a neighbour says so at once, often before the kernel has told who died: so long the dead one may
take to be named before the survivor's word is passed on instead."""


class RankHost:
    """Starts the processes of all ranks of ``settings``. Use it from one thread."""

    def __init__(self, settings: Sequence[RankSettings]) -> None:
        keys = new_keys()
        self._context = KeyedContext(keys)
        self._channel = HeadChannel(self._context)
        self._agent = NodeAgent(read_architecture(settings[0].model_folder), settings[0].threads)
        self._boots: dict[RankId, RankBoot] = {}
        self._ids: dict[bytes, RankId] = {}
        self._epoch = 0
        self._fetch: fetch.Fetch | None = None
        self._suspicion: tuple[float, StageFailedError] | None = None
        self._failure: StageFailedError | ConfigurationError | None = None
        for stage, rank in all_members(settings):
            boot = RankBoot(
                stage=stage,
                rank=rank,
                incarnation=1,
                endpoint=self._channel.endpoint,
                keys=keys,
                log_level=logging.getLogger().getEffectiveLevel(),
            )
            self._start(boot)

    def fetch(self, settings: Sequence[RankSettings], progress: Callable[[str], None]) -> None:
        """Begin to fetch what these stages lack of their weights; ranks that load meanwhile wait for each tensor.

        A failure is kept for :meth:`take_failure`.

        Raises:
            ModelSourceError: see :func:`stageline_engine.sources.fetch.begin`.
        """
        self._end_fetch()
        self._fetch = fetch.begin(Path(settings[0].model_folder), [stage.spec for stage in settings], progress)

    def replace(self, rank_id: RankId) -> None:
        """Start a successor of a rank that has ended; its Hello comes when it is there."""
        boot = self._boots[rank_id]
        self._start(msgspec.structs.replace(boot, incarnation=boot.incarnation + 1))

    def begin_epoch(self, epoch: int) -> None:
        """Refuse from now on what ranks say of other epochs, their failures included."""
        self._epoch = epoch
        self._suspicion = None

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        """Readable when :meth:`collect` has something."""
        fetching = [] if self._fetch is None else [self._fetch.fileno()]
        return [self._channel.socket, self._agent.fileno(), *fetching]

    def send(self, rank_id: RankId, command: msgspec.Struct) -> None:
        """To one rank; never blocks. A rank that is not there is noted as a failure."""
        self.send_to([rank_id], command)

    def send_to(self, rank_ids: Iterable[RankId], command: msgspec.Struct) -> None:
        """To several ranks, encoded once; never blocks. A rank that is not there is noted as a failure."""
        for identity in self._channel.send([self._boots[rank_id].identity for rank_id in rank_ids], command):
            self._suspect(self._ids[identity], "the process takes no messages")

    def wait_all(
        self, kind: type[Reply], on_reply: Callable[[RankId, Reply], None], members: Iterable[RankId] = ()
    ) -> None:
        """Wait for one message of this kind from each rank, or from each of ``members``; other kinds are dropped.

        Raises:
            StageFailedError: a rank ended, or lost a neighbour.
            ConfigurationError: a rank found its settings or the model's files wrong.
        """
        poller = zmq.Poller()
        for socket in self.sockets():
            poller.register(socket, zmq.POLLIN)
        missing = set(members) or set(self._boots)
        while missing:
            poller.poll(100 if self._suspicion else None)
            for rank_id, reply in self.collect():
                if isinstance(reply, kind) and rank_id in missing:
                    missing.discard(rank_id)
                    on_reply(rank_id, reply)
            if (failure := self.take_failure()) is not None:
                raise failure

    def collect(self) -> list[tuple[RankId, RankReply]]:
        """What ranks said since the last call, without waiting; failures are kept for :meth:`take_failure`."""
        replies: list[tuple[RankId, RankReply]] = []
        for identity, reply in self._channel.receive():
            rank_id = self._ids[identity]
            if not isinstance(reply, Hello) and reply.epoch != self._epoch:
                _log.warning("stage %d rank %d: %s", *rank_id, StaleEpochError(reply.epoch, self._epoch))
            elif isinstance(reply, RankFailed):
                self._judge(rank_id, reply)
            else:
                replies.append((rank_id, reply))
        for died in self._agent.poll():
            self._bury(died)
        self._poll_fetch()
        return replies

    def take_failure(self) -> StageFailedError | ConfigurationError | None:
        """What went wrong, once; the cause rather than what followed from it."""
        if self._failure is None and self._suspicion is not None and time.monotonic() >= self._suspicion[0]:
            self._failure = self._suspicion[1]
        failure, self._failure = self._failure, None
        if failure is not None:
            self._suspicion = None
        return failure

    def pids(self) -> list[list[int]]:
        """Process ids by stage and rank, of the ranks that live."""
        pids: dict[int, list[int]] = {}
        for stage, rank in self._boots:
            pid = self._agent.pid((stage, rank))
            pids.setdefault(stage, []).extend([] if pid is None else [pid])
        return list(pids.values())

    def resident_bytes(self) -> list[int]:
        """Resident memory by stage, summed over its ranks; what they share with the fork parent counts for each."""
        return [sum(map(_resident_bytes, pids)) for pids in self.pids()]

    def close(self) -> None:
        """End every process within 2 s. May be called twice."""
        self._end_fetch()
        self._agent.close()
        self._context.close()

    def _start(self, boot: RankBoot) -> None:
        rank_id = boot.stage, boot.rank
        self._boots[rank_id] = boot
        self._ids[boot.identity] = rank_id
        self._channel.expect(boot.identity)
        self._agent.start(boot)

    def _poll_fetch(self) -> None:
        try:
            if self._fetch is not None:
                self._fetch.poll()
        except ConfigurationError as error:
            self._failure = self._failure or error

    def _end_fetch(self) -> None:
        if self._fetch is not None:
            self._fetch.close()
            self._fetch = None

    def _judge(self, rank_id: RankId, failed: RankFailed) -> None:
        error = failed.input_error()
        if error is None:
            self._suspect(rank_id, failed.message)
        elif self._failure is None:
            self._failure = error

    def _suspect(self, rank_id: RankId, reason: str) -> None:
        if self._suspicion is None:
            stage, rank = rank_id
            error = StageFailedError(stage, rank, reason, log_tail=self._agent.log_tail(rank_id))
            self._suspicion = (time.monotonic() + _SETTLE_SECONDS, error)

    def _bury(self, died: RankDied) -> None:
        boot = died.boot
        self._channel.forget(boot.identity)
        _log.warning("stage %d rank %d: %s (exit code %d)", boot.stage, boot.rank, died.reason, died.exit_code)
        if self._failure is None:
            self._failure = StageFailedError(boot.stage, boot.rank, died.reason, died.exit_code, died.log_tail)


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
