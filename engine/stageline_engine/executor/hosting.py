"""The seam below RankHost: who makes the processes of ranks, fetches what they read, and sees them end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from stageline_engine.agent.node_agent import RankDied
from stageline_engine.comm.commands import RankBoot, RankId
from stageline_engine.comm.node_commands import NodeMessage
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError, EngineFailedError


@dataclass(frozen=True)
class StageLeft:
    """The machine of a stage is lost or has left, with all of the stage's ranks."""

    stage: int
    reason: str


Trouble = RankDied | StageLeft | EngineFailedError | ConfigurationError


class Hosting(Protocol):
    """Hosts the processes of all ranks. Use it from one thread."""

    def start(self, boots: Sequence[RankBoot]) -> None:
        """Have these ranks made, in the place of predecessors that have ended. Does not wait."""

    def fetch(self, settings: Sequence[RankSettings], progress: Callable[[str], None]) -> None:
        """Begin to fetch what the stages lack of their weights, where their ranks are.

        Raises:
            ModelSourceError: see :func:`stageline_engine.sources.fetch.begin`; later ones come from :meth:`poll`.
        """

    def is_prepared(self) -> bool:
        """Whether the model is where every rank is, but for what is being fetched."""

    def settings(self) -> list[RankSettings]:
        """What the ranks are to be set up with where they are; once all is prepared."""

    def joined(self, epoch: int) -> None:
        """All ranks are members of a new epoch."""

    def hear(self, name: bytes, message: NodeMessage) -> None:
        """A node said something on the control channel."""

    def poll(self) -> list[Trouble]:
        """What went wrong since the last call, without waiting; for a caller that comes every 0.5 s at least."""

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        """Readable when :meth:`poll` has something, besides the control channel."""

    def log_tail(self, rank_id: RankId) -> str:
        """The last lines that a rank wrote, as far as they are known here."""

    def pids(self) -> list[list[int]]:
        """Process ids by stage and rank, of the ranks that live; empty where they are not of this machine."""

    def resident_bytes(self) -> list[int]:
        """Resident memory by stage, summed over its ranks; what they share with the fork parent counts for each."""

    def drain(self) -> None:
        """See :meth:`executor.base.Executor.drain`."""

    def close(self, failure: str) -> None:
        """End every rank within 2 s; see :meth:`executor.base.Executor.close`. May be called twice."""
