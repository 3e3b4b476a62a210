"""What a node does for one head: its stage's ranks, the model they read, and the weights that are fetched for them."""

from __future__ import annotations

import os
from collections.abc import Callable

from stageline_engine.agent.memory import resident_bytes
from stageline_engine.agent.node_agent import NodeAgent
from stageline_engine.comm.commands import RankBoot, RankFailed
from stageline_engine.comm.node_commands import NodeFailed, NodeMessage, NodePrepared, RankEnded, RunStage
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.node.metrics import RankState
from stageline_engine.node.options import NodeOptions
from stageline_engine.node.resolving import Resolving
from stageline_engine.planning.threads import default_threads
from stageline_engine.sources import fetch
from stageline_engine.sources.folder import ModelFolder


class StageWork:
    """Begins at once. Use it from one thread, whose end is the end of the ranks.

    Args:
        progress: gets a line for each step that may last long.
    """

    def __init__(self, options: NodeOptions, order: RunStage, progress: Callable[[str], None]) -> None:
        self.order = order
        self._progress = progress
        self._threads = order.threads or default_threads(os.cpu_count() or 1, options.tp)
        self._ranks = range(options.tp)
        self._agent = NodeAgent(order.architecture, self._threads, options.address)
        self._resolving = Resolving(order.model, order.spec)
        self._fetch: fetch.Fetch | None = None
        for rank in self._ranks:
            boot = RankBoot(
                stage=options.stage,
                rank=rank,
                incarnation=order.incarnation,
                endpoint=options.endpoint,
                keys=options.keys,
                log_level=order.log_level,
                address=options.address,
            )
            self._agent.start(boot)

    def sockets(self) -> list[int]:
        """Readable when :meth:`poll` has something."""
        fetching = [] if self._fetch is None else [self._fetch.fileno()]
        return [self._agent.fileno(), self._resolving.fileno(), *fetching]

    def poll(self) -> list[NodeMessage]:
        """What the head has to know of what happened since the last call, without waiting.

        Raises:
            ConfigurationError: the model cannot be had; :func:`failed` says it to the head.
        """
        messages: list[NodeMessage] = []
        for news in self._resolving.poll():
            if isinstance(news, ConfigurationError):
                raise news
            if isinstance(news, ModelFolder):
                self._fetch = fetch.begin(news.path, [self.order.spec], self._progress)
                messages.append(NodePrepared(str(news.path), self._threads))
            else:
                self._progress(news)
        if self._fetch is not None:
            self._fetch.poll()
        for died in self._agent.poll():
            self._progress(f"rank {died.boot.rank}: {died.reason} (exit code {died.exit_code})")
            messages.append(
                RankEnded(died.boot.rank, died.boot.incarnation, died.exit_code, died.reason, died.log_tail)
            )
        return messages

    def ranks(self) -> list[RankState]:
        """All ranks, as they are now."""
        states = []
        for rank_id in ((self.order.spec.stage, rank) for rank in self._ranks):
            pid = self._agent.pid(rank_id)
            states.append(RankState(self._agent.counts(rank_id), 0 if pid is None else resident_bytes(pid)))
        return states

    def close(self) -> None:
        """End the ranks within 2 s, and what is being fetched."""
        if self._fetch is not None:
            self._fetch.close()
            self._fetch = None
        self._resolving.close()
        self._agent.close()


def failed(error: ConfigurationError) -> NodeFailed:
    """How the head is told."""
    return NodeFailed(RankFailed.of_input(0, error))
