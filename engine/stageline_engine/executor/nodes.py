"""Ranks on other machines, each stage hosted by a `stageline node` that joins the head."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.key_file import read_keys
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.executor.processes import ProcessExecutor
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.remote_nodes import RemoteNodes
from stageline_engine.executor.roster import Roster


class NodesExecutor(ProcessExecutor):
    """See :class:`executor.base.Executor`.

    Args:
        keys: folder with the key that head and nodes share.
        address, port: where nodes and ranks find this head.

    Raises:
        ConfigurationError: the key is missing or malformed.
    """

    def __init__(self, keys: Path, address: str, port: int) -> None:
        super().__init__()
        self._keys = read_keys(keys)
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
        nodes = RemoteNodes(channel, settings, progress, roster)
        # A head's ranks are called otherwise than those of the head before it, which may still knock.
        return RankHost(settings, context, channel, nodes, first_incarnation=time.time_ns() // 1_000_000)
