"""Ranks on other machines, each stage hosted by a `stageline node` that joins the head."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.commands import ReplicaKeys
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.executor.processes import ProcessExecutor
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.remote_nodes import RemoteNodes
from stageline_engine.executor.roster import Roster


class NodesExecutor(ProcessExecutor):
    """See :class:`executor.base.Executor`.

    Args:
        keys: those that head and nodes share.
        address, port: where nodes and ranks find this head.
    """

    def __init__(self, keys: ReplicaKeys, address: str, port: int) -> None:
        super().__init__()
        self._keys = keys
        self._address = address
        self._port = port

    def make_host(self, settings: Sequence[RankSettings], progress: Callable[[str], None], roster: Roster) -> RankHost:
        """See :class:`ProcessExecutor`."""
        context = KeyedContext(self._keys)
        try:
            channel = HeadChannel(context, self._address, self._port, takes_nodes=True)
        except OSError as error:
            context.close()
            raise ConfigurationError("--control-port", f"{self._address}:{self._port}", f"{error}") from error
        nodes = self.make_nodes(channel, settings, progress, roster)
        # A head's ranks are called otherwise than those of the head before it, which may still knock.
        return RankHost(settings, context, channel, nodes, first_incarnation=time.time_ns() // 1_000_000)

    def make_nodes(
        self,
        channel: HeadChannel,
        settings: Sequence[RankSettings],
        progress: Callable[[str], None],
        roster: Roster,
    ) -> RemoteNodes:
        """Who takes the nodes that join."""
        return RemoteNodes(channel, settings, progress, roster)
