"""The seam between the engine loop and whoever hosts the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import zmq

from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import StageFailedError
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepReport, StepResult
from stageline_engine.executor.roster import Tell, tell_nobody


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """All stages are loaded, have their KV cache, are joined and warm."""

    loaded: list[RankLoaded]
    num_blocks: int
    rank_pids: list[list[int]]
    """By stage and rank; empty for ranks without a process of their own."""


ExecutorEvent = StepResult | StepReport | StageFailedError


class Executor(Protocol):
    """Hosts the ranks of all stages, and carries admissions and plans to them and results back."""

    def start(
        self,
        settings: Sequence[RankSettings],
        choose_blocks: Callable[[list[RankLoaded]], int],
        progress: Callable[[str], None],
        epoch: int,
        tell: Tell = tell_nobody,
    ) -> Started:
        """Start every rank, load, allocate, join, warm up. Blocks until all are ready.

        ``choose_blocks`` is called once with what every rank loaded, and gives the number of KV blocks of all ranks.
        ``tell`` hears who runs the stages: at once, and at every change until :meth:`close`.

        Raises:
            StageFailedError: a rank died or raised; nothing is left running.
            ConfigurationError: a rank found its settings or the model's files wrong; nothing is left running.
        """

    def admit(self, admission: AdmitSequence) -> None:
        """Send to the ranks of stage 0 and of the last stage. Never blocks."""

    def submit(self, plan: StepPlan) -> None:
        """Send to every rank. Never blocks."""

    def poll(self) -> list[ExecutorEvent]:
        """Everything that came back since the last call, without waiting."""

    def sockets(self) -> Sequence[zmq.Socket[bytes] | int]:
        """What becomes readable when :meth:`poll` has something; empty when ``submit`` completes a step itself."""

    def resident_bytes(self) -> list[int]:
        """Resident memory by stage, summed over its ranks; an empty list where that has no meaning."""

    def drain(self) -> None:
        """The engine takes no new requests, and ends when the running ones have: ranks are needed until then."""

    def close(self, failure: str = "") -> None:
        """End every rank within 2 s, leaving no process behind. May be called twice.

        ``failure`` says why the engine ends although nobody asked it to: machines that are not this one's then wait for
        another head. Without it their part is over too.
        """
