"""The conversation that turns freshly made rank processes into a pipeline, or an existing pipeline into a new epoch.

    InitRank ─▶ Loaded   weights, all ranks in parallel
    Allocate ─▶ Opened   KV cache, own ends of the links
    Connect  ─▶ Connected
    WarmUp   ─▶ Warm

It knows neither sockets nor processes: whoever hosts the ranks passes in a way to send, and a way to wait for answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from stageline_engine.comm.commands import (
    Allocate,
    Connect,
    Connected,
    InitRank,
    Loaded,
    Opened,
    RankId,
    Warm,
    WarmUp,
)
from stageline_engine.comm.wiring import Wire, boundary_wires, sends_feedback, tensor_wires
from stageline_engine.core.deployment import RankLoaded, RankSettings

Reply = TypeVar("Reply", bound=msgspec.Struct)


class Ranks(Protocol):
    """Every rank of a pipeline, reachable."""

    def begin_epoch(self, epoch: int) -> None:
        """Refuse from now on what ranks say of other epochs."""

    def send(self, rank_id: RankId, command: msgspec.Struct) -> None:
        """To one rank; never blocks."""

    def wait_all(self, kind: type[Reply], on_reply: Callable[[RankId, Reply], None]) -> None:
        """Wait for one message of this kind from each rank. Raises what ended a rank, or what a rank raised."""


class RankSetup:
    """Sets up all ranks of a pipeline for one epoch."""

    def __init__(
        self, ranks: Ranks, settings: Sequence[RankSettings], epoch: int, progress: Callable[[str], None]
    ) -> None:
        self._ranks = ranks
        self._settings = settings
        self._epoch = epoch
        self._progress = progress
        self._tp_of_stages = tuple(stage.spec.tp for stage in settings)
        self._members = all_members(settings)

    def run(self, choose_blocks: Callable[[list[RankLoaded]], int]) -> tuple[list[RankLoaded], int]:
        """Hold the conversation; returns what the ranks loaded, in order, and the number of KV blocks."""
        self._ranks.begin_epoch(self._epoch)
        loaded = self._load()
        num_blocks = choose_blocks(loaded)
        opened = self._open(num_blocks)
        self._connect(opened)
        self._warm_up()
        return loaded, num_blocks

    def _load(self) -> list[RankLoaded]:
        for member in self._members:
            self._ranks.send(member, InitRank(self._epoch, self._settings[member[0]], self._tp_of_stages))
        by_member: dict[RankId, Loaded] = {}

        def note(member: RankId, reply: Loaded) -> None:
            by_member[member] = reply
            stage = member[0]
            replies = [by_member[other] for other in self._members if other[0] == stage and other in by_member]
            if len(replies) == self._tp_of_stages[stage]:
                self._progress(self._loaded_line(stage, replies))

        self._ranks.wait_all(Loaded, note)
        return [by_member[member].loaded for member in self._members]

    def _loaded_line(self, stage: int, replies: Sequence[Loaded]) -> str:
        spec = self._settings[stage].spec
        name = f"stage {stage} (layers {spec.start}-{spec.end - 1})"
        if all(reply.kept for reply in replies):
            return f"{name}: kept its weights"
        megabytes = sum(reply.loaded.weight_bytes for reply in replies) / 1e6
        seconds = max(reply.loaded.load_seconds for reply in replies)
        return f"{name}: loaded {megabytes:,.0f} MB in {seconds:.1f} s"

    def _open(self, num_blocks: int) -> dict[RankId, Opened]:
        for member in self._members:
            self._ranks.send(member, Allocate(self._epoch, num_blocks))
        opened: dict[RankId, Opened] = {}
        self._ranks.wait_all(Opened, opened.__setitem__)
        return opened

    def _connect(self, opened: dict[RankId, Opened]) -> None:
        wires = [*boundary_wires(self._tp_of_stages), *tensor_wires(self._tp_of_stages)]
        addresses = [reply.feedback for reply in opened.values() if reply.feedback]
        for member in self._members:
            ends = {wire.name: _ends_of(wire, opened) for wire in wires if member in wire.members}
            feedback = addresses if sends_feedback(member, self._tp_of_stages) else []
            self._ranks.send(member, Connect(self._epoch, ends, feedback))
        self._ranks.wait_all(Connected, lambda member, reply: None)

    def _warm_up(self) -> None:
        for member in self._members:
            self._ranks.send(member, WarmUp(self._epoch))

        def note(member: RankId, reply: Warm) -> None:
            if member[1] == 0:
                self._progress(f"stage {member[0]}: warm after {reply.seconds:.1f} s")

        self._ranks.wait_all(Warm, note)


def _ends_of(wire: Wire, opened: dict[RankId, Opened]) -> dict[int, bytes]:
    return {number: opened[member].ends[wire.name] for number, member in enumerate(wire.members)}


def all_members(settings: Iterable[RankSettings]) -> list[RankId]:
    """Every rank of a pipeline, by stage and rank."""
    return [(stage.spec.stage, rank) for stage in settings for rank in range(stage.spec.tp)]
