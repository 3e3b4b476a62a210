"""The ranks of a pipeline, reachable: one keyed channel to all of them, and the judgement of who failed.

send ──▶ channel ──▶ ranks        collect ◀── channel ◀── ranks
                                  collect ◀── hosting ◀── a rank ended, weights cannot be fetched, a node is lost
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import zmq

from stageline_engine.agent.node_agent import RankDied
from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.commands import Hello, RankBoot, RankFailed, RankId, RankReply
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.node_commands import NodeMessage
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError, EngineFailedError, StageFailedError, StaleEpochError
from stageline_engine.executor.hosting import Hosting, StageLeft
from stageline_engine.executor.rank_setup import Reply, all_members

_log = logging.getLogger(__name__)
_SETTLE_SECONDS = 1.0
"""A rank that lost a neighbour says so at once, often before the kernel has told who died: so long the dead one may
take to be named before the survivor's word is passed on instead."""
_POLL_MS = 500
"""Between two looks at the hosting while nobody says anything."""
_POLL_SUSPICIOUS_MS = 100


class RankHost:
    """Has the processes of all ranks of ``settings`` made. Use it from one thread.

    Args:
        context: that of ``channel``; closed with this.
        first_incarnation: see :attr:`RankBoot.incarnation`.
    """

    def __init__(
        self,
        settings: Sequence[RankSettings],
        context: KeyedContext,
        channel: HeadChannel,
        hosting: Hosting,
        first_incarnation: int = 1,
    ) -> None:
        self._context = context
        self._channel = channel
        self._hosting = hosting
        self._boots: dict[RankId, RankBoot] = {}
        self._ids: dict[bytes, RankId] = {}
        self._there: set[RankId] = set()
        """Ranks that have said Hello, and have not ended."""
        self._is_assembled = False
        self._epoch = 0
        self._suspicion: tuple[float, StageFailedError] | None = None
        self._failure: EngineFailedError | ConfigurationError | None = None
        self._start(
            [
                RankBoot(
                    stage=stage,
                    rank=rank,
                    incarnation=first_incarnation,
                    endpoint=channel.endpoint,
                    keys=context.keys,
                    log_level=logging.getLogger().getEffectiveLevel(),
                )
                for stage, rank in all_members(settings)
            ]
        )

    def fetch(self, settings: Sequence[RankSettings], progress: Callable[[str], None]) -> None:
        """Begin to fetch what these stages lack of their weights; ranks that load meanwhile wait for each tensor.

        A failure is kept for :meth:`take_failure`.

        Raises:
            ModelSourceError: see :func:`stageline_engine.sources.fetch.begin`.
        """
        self._hosting.fetch(settings, progress)

    def replace(self, *rank_ids: RankId) -> None:
        """Start successors of ranks that have ended; their Hello comes when they are there."""
        boots = [self._boots[rank_id] for rank_id in rank_ids]
        self._start([msgspec.structs.replace(boot, incarnation=boot.incarnation + 1) for boot in boots])

    def assemble(self) -> list[RankSettings]:
        """Wait until every rank is there; returns what they are to be set up with.

        A stage that leaves meanwhile is awaited again: nothing is lost with it yet.

        Raises:
            StageFailedError, ConfigurationError: as :meth:`wait_all`.
        """
        self._wait_until(lambda: len(self._there) == len(self._boots) and self._hosting.is_prepared())
        self._is_assembled = True
        return self._hosting.settings()

    def joined(self) -> None:
        """Tell whoever hosts the ranks that the epoch has begun."""
        self._hosting.joined(self._epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Refuse from now on what ranks say of other epochs, their failures included."""
        self._epoch = epoch
        self._suspicion = None

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        """Readable when :meth:`collect` has something."""
        return [self._channel.socket, *self._hosting.sockets()]

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
            StageFailedError: a rank ended, or lost a neighbour, or its node is lost.
            ConfigurationError: a rank found its settings or the model's files wrong.
        """
        missing = set(members) or set(self._boots)

        def note(rank_id: RankId, reply: RankReply) -> None:
            if isinstance(reply, kind) and rank_id in missing:
                missing.discard(rank_id)
                on_reply(rank_id, reply)

        self._wait_until(lambda: not missing, note)

    def collect(self) -> list[tuple[RankId, RankReply]]:
        """What ranks said since the last call, without waiting; failures are kept for :meth:`take_failure`."""
        replies: list[tuple[RankId, RankReply]] = []
        for name, message in self._channel.receive():
            if isinstance(message, NodeMessage):
                self._hosting.hear(name, message)
                continue
            rank_id = self._ids[name]
            if isinstance(message, Hello):
                self._there.add(rank_id)
                replies.append((rank_id, message))
            elif message.epoch != self._epoch:
                _log.warning("stage %d rank %d: %s", *rank_id, StaleEpochError(message.epoch, self._epoch))
            elif isinstance(message, RankFailed):
                self._judge(rank_id, message)
            else:
                replies.append((rank_id, message))
        for trouble in self._hosting.poll():
            if isinstance(trouble, RankDied):
                self._bury(trouble)
            elif isinstance(trouble, StageLeft):
                self._miss(trouble)
            else:
                self._failure = self._failure or trouble
        return replies

    def take_failure(self) -> EngineFailedError | ConfigurationError | None:
        """What went wrong, once; the cause rather than what followed from it."""
        if self._failure is None and self._suspicion is not None and time.monotonic() >= self._suspicion[0]:
            self._failure = self._suspicion[1]
        failure, self._failure = self._failure, None
        if failure is not None:
            self._suspicion = None
        return failure

    def pids(self) -> list[list[int]]:
        """Process ids by stage and rank, of the ranks that live on this machine; empty if it has none."""
        return self._hosting.pids()

    def resident_bytes(self) -> list[int]:
        """Resident memory by stage, summed over its ranks; what they share with the fork parent counts for each."""
        return self._hosting.resident_bytes()

    def drain(self) -> None:
        """See :meth:`executor.base.Executor.drain`."""
        self._hosting.drain()

    def close(self, failure: str = "") -> None:
        """End every process within 2 s; see :meth:`executor.base.Executor.close`. May be called twice."""
        self._hosting.close(failure)
        self._context.close()

    def _start(self, boots: Sequence[RankBoot]) -> None:
        for boot in boots:
            rank_id = boot.stage, boot.rank
            if (previous := self._boots.get(rank_id)) is not None:
                self._channel.forget(previous.identity)
            self._there.discard(rank_id)
            self._boots[rank_id] = boot
            self._ids[boot.identity] = rank_id
            self._channel.expect(boot.identity)
        self._hosting.start(boots)

    def _wait_until(
        self, condition: Callable[[], bool], on_reply: Callable[[RankId, RankReply], None] = lambda rank_id, reply: None
    ) -> None:
        poller = zmq.Poller()
        for socket in self.sockets():
            poller.register(socket, zmq.POLLIN)
        while not condition():
            poller.poll(_POLL_SUSPICIOUS_MS if self._suspicion else _POLL_MS)
            for rank_id, reply in self.collect():
                on_reply(rank_id, reply)
            if (failure := self.take_failure()) is not None:
                raise failure

    def _judge(self, rank_id: RankId, failed: RankFailed) -> None:
        error = failed.input_error()
        if error is None:
            self._suspect(rank_id, failed.message)
        elif self._failure is None:
            self._failure = error

    def _suspect(self, rank_id: RankId, reason: str) -> None:
        if self._suspicion is None:
            stage, rank = rank_id
            error = StageFailedError(stage, rank, reason, log_tail=self._hosting.log_tail(rank_id))
            self._suspicion = (time.monotonic() + _SETTLE_SECONDS, error)

    def _bury(self, died: RankDied) -> None:
        boot = died.boot
        self._channel.forget(boot.identity)
        self._there.discard((boot.stage, boot.rank))
        _log.warning("stage %d rank %d: %s (exit code %d)", boot.stage, boot.rank, died.reason, died.exit_code)
        if self._failure is None:
            self._failure = StageFailedError(boot.stage, boot.rank, died.reason, died.exit_code, died.log_tail)

    def _miss(self, left: StageLeft) -> None:
        _log.warning("stage %d: %s", left.stage, left.reason)
        if not self._is_assembled:
            self.replace(*(rank_id for rank_id in self._boots if rank_id[0] == left.stage))
        elif self._failure is None:
            self._failure = StageFailedError(left.stage, 0, left.reason)
