"""Ranks as processes of this machine: one node agent, and one fetch for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import zmq

from stageline_engine.agent.memory import resident_bytes
from stageline_engine.agent.node_agent import NodeAgent, read_architecture
from stageline_engine.comm.commands import RankBoot, RankId
from stageline_engine.comm.node_commands import NodeMessage
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.executor.hosting import Trouble
from stageline_engine.executor.rank_setup import all_members
from stageline_engine.sources import fetch


class ThisMachine:
    """See :class:`executor.hosting.Hosting`. Its ranks end with the thread that made it."""

    def __init__(self, settings: Sequence[RankSettings]) -> None:
        self._settings = list(settings)
        self._members = all_members(settings)
        self._agent = NodeAgent(read_architecture(settings[0].model_folder), settings[0].threads)
        self._fetch: fetch.Fetch | None = None

    def start(self, boots: Sequence[RankBoot]) -> None:
        """See :class:`executor.hosting.Hosting`."""
        for boot in boots:
            self._agent.start(boot)

    def fetch(self, settings: Sequence[RankSettings], progress: Callable[[str], None]) -> None:
        """See :class:`executor.hosting.Hosting`."""
        self._end_fetch()
        self._fetch = fetch.begin(Path(settings[0].model_folder), [stage.spec for stage in settings], progress)

    def is_prepared(self) -> bool:
        """The launcher has seen to it."""
        return True

    def settings(self) -> list[RankSettings]:
        """As they were given."""
        return self._settings

    def joined(self, epoch: int) -> None:
        """Nobody else has to know."""

    def hear(self, name: bytes, message: NodeMessage) -> None:
        """Nothing: the channel takes no nodes."""

    def poll(self) -> list[Trouble]:
        """See :class:`executor.hosting.Hosting`."""
        troubles: list[Trouble] = [*self._agent.poll()]
        try:
            if self._fetch is not None:
                self._fetch.poll()
        except ConfigurationError as error:
            troubles.append(error)
        return troubles

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        """See :class:`executor.hosting.Hosting`."""
        fetching = [] if self._fetch is None else [self._fetch.fileno()]
        return [self._agent.fileno(), *fetching]

    def log_tail(self, rank_id: RankId) -> str:
        """See :class:`executor.hosting.Hosting`."""
        return self._agent.log_tail(rank_id)

    def pids(self) -> list[list[int]]:
        """See :class:`executor.hosting.Hosting`."""
        pids: dict[int, list[int]] = {}
        for stage, rank in self._members:
            pid = self._agent.pid((stage, rank))
            pids.setdefault(stage, []).extend([] if pid is None else [pid])
        return list(pids.values())

    def resident_bytes(self) -> list[int]:
        """See :class:`executor.hosting.Hosting`."""
        return [sum(map(resident_bytes, pids)) for pids in self.pids()]

    def drain(self) -> None:
        """Nothing: nobody else ends these ranks."""

    def close(self, failure: str) -> None:
        """See :class:`executor.hosting.Hosting`."""
        self._end_fetch()
        self._agent.close()

    def _end_fetch(self) -> None:
        if self._fetch is not None:
            self._fetch.close()
            self._fetch = None
