"""Ranks on other machines: a node for each stage, which joins over the control channel and hosts the stage's ranks.

A node joins when it likes, before or after this head. It is told what to run, and prepares it by itself: the model's
files, the weights of its stage, the ranks, which then come to the channel themselves.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import zmq

from stageline_engine.agent.node_agent import RankDied, read_architecture
from stageline_engine.comm.channel import HeadChannel
from stageline_engine.comm.commands import RankBoot, RankId
from stageline_engine.comm.node_commands import (
    BEAT_SECONDS,
    SILENT_SECONDS,
    EpochBegan,
    HeadBeat,
    MayEnd,
    NodeBeat,
    NodeFailed,
    NodeJoin,
    NodeLeft,
    NodeMessage,
    NodePrepared,
    NodeProgress,
    NodeRefused,
    NodeToldToEnd,
    RankEnded,
    ReplicaOver,
    RunStage,
)
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.messages import STAGE_LOADING
from stageline_engine.executor.hosting import StageLeft, Trouble
from stageline_engine.executor.roster import Roster

_log = logging.getLogger(__name__)
_TAKEOVER_SECONDS = 3.0
"""A node that has said nothing for so long has to make way for another one of its stage."""
_REMIND_SECONDS = 10.0
_DRAIN_BEGINS_SECONDS = 12.0
"""The pods of a replica are told to end at once, but a head hears of it 10 s later: so long its pod goes on to accept
what proxies still send. A stage that asks is answered only when the head would have begun to drain."""
_FAREWELL_SECONDS = 2.0
"""So long nodes may take to end their ranks when the head ends."""


@dataclass
class _Node:
    name: bytes
    """On the channel."""
    label: str
    """For people."""
    heard_at: float
    prepared: NodePrepared | None = None
    resident_bytes: int = 0
    asked_at: float | None = None
    """When it asked whether it may end; None: it has not, or has its answer."""


@dataclass
class _Place:
    """One stage: what it is to run, and who does."""

    settings: RankSettings
    boots: dict[int, RankBoot] = field(default_factory=dict)
    """By rank, those that a node is to make, or has made."""
    node: _Node | None = None


class RemoteNodes:
    """See :class:`executor.hosting.Hosting`.

    Args:
        channel: takes nodes.
        progress: gets a line when a node joins, and what nodes have to say.
        roster: of all stages.
    """

    def __init__(
        self,
        channel: HeadChannel,
        settings: Sequence[RankSettings],
        progress: Callable[[str], None],
        roster: Roster,
    ) -> None:
        self._channel = channel
        self._progress = progress
        self._roster = roster
        self._head = secrets.token_hex(8)
        self._architecture = read_architecture(settings[0].model_folder)
        self._places = [_Place(stage) for stage in settings]
        self._troubles: list[Trouble] = []
        self._beat_at = 0.0
        self._remind_at = time.monotonic() + _REMIND_SECONDS
        self._waited_for = ""
        self._is_draining = False
        self._is_closed = False

    def start(self, boots: Sequence[RankBoot]) -> None:
        """See :class:`executor.hosting.Hosting`. Stages without a node are started when one joins."""
        for boot in boots:
            self._places[boot.stage].boots[boot.rank] = boot
        for stage in sorted({boot.stage for boot in boots}):
            self._order(self._places[stage])
        self._tell_whom_we_wait_for()

    def fetch(self, settings: Sequence[RankSettings], progress: Callable[[str], None]) -> None:
        """Nothing: each node fetches its stage's weights as soon as it knows the model."""

    def is_prepared(self) -> bool:
        """See :class:`executor.hosting.Hosting`."""
        return all(place.node is not None and place.node.prepared is not None for place in self._places)

    @property
    def have_all_joined(self) -> bool:
        """Whether every stage has a node."""
        return all(place.node is not None for place in self._places)

    def settings(self) -> list[RankSettings]:
        """See :class:`executor.hosting.Hosting`."""
        settings: list[RankSettings] = []
        for place in self._places:
            prepared = None if place.node is None else place.node.prepared
            assert prepared is not None, "is_prepared() comes first"
            settings.append(
                msgspec.structs.replace(
                    place.settings, model_folder=prepared.model_folder, threads=prepared.threads, first_device=0
                )
            )
        return settings

    def joined(self, epoch: int) -> None:
        """See :class:`executor.hosting.Hosting`."""
        self._channel.send(self._names(), EpochBegan(epoch))

    def hear(self, name: bytes, message: NodeMessage) -> None:
        """See :class:`executor.hosting.Hosting`."""
        if isinstance(message, NodeJoin):
            self._join(name, message)
            return
        place = next((place for place in self._places if place.node is not None and place.node.name == name), None)
        if place is None:
            # It ran a stage of a head before this one, or was given up: it has to join anew.
            self._channel.send([name], HeadBeat(self._head, asks_to_join=True))
            return
        assert place.node is not None
        place.node.heard_at = time.monotonic()
        self._take(place, place.node, message)

    def poll(self) -> list[Trouble]:
        """See :class:`executor.hosting.Hosting`."""
        now = time.monotonic()
        if now >= self._beat_at:
            self._beat_at = now + BEAT_SECONDS
            gone = set(self._channel.send(self._names(), HeadBeat(self._head)))
            for place in self._places:
                if place.node is not None and place.node.name in gone:
                    self._lose(place, "closed its connection")
                elif place.node is not None and now - place.node.heard_at > SILENT_SECONDS:
                    self._lose(place, f"did not answer for {SILENT_SECONDS:.0f} s")
        self._answer_those_who_ask(now)
        if self._waited_for and now >= self._remind_at:
            self._remind_at = now + _REMIND_SECONDS
            _log.info("%s", self._waited_for)
        troubles, self._troubles = self._troubles, []
        return troubles

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        """None besides the channel."""
        return []

    def log_tail(self, rank_id: RankId) -> str:
        """Nothing: its node has it, and tells when the rank has ended."""
        return ""

    def pids(self) -> list[list[int]]:
        """None: they would mean nothing on this machine."""
        return []

    def resident_bytes(self) -> list[int]:
        """See :class:`executor.hosting.Hosting`."""
        return [0 if place.node is None else place.node.resident_bytes for place in self._places]

    def drain(self) -> None:
        """See :class:`executor.hosting.Hosting`."""
        self._is_draining = True

    def close(self, failure: str) -> None:
        """See :class:`executor.hosting.Hosting`."""
        if self._is_closed:
            return
        self._is_closed = True
        names = set(self._names())
        over = ReplicaOver(failure or "the head was told to end", comes_back=bool(failure))
        names -= set(self._channel.send(names, over))
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while names and (left := deadline - time.monotonic()) > 0:
            self._channel.socket.poll(int(left * 1000))
            names -= {name for name, message in self._channel.receive() if isinstance(message, NodeLeft)}

    def _names(self) -> list[bytes]:
        return [place.node.name for place in self._places if place.node is not None]

    def _join(self, name: bytes, join: NodeJoin) -> None:
        label = f"{join.pod} at {join.address}" if join.pod else f"the node at {join.address}"
        now = time.monotonic()
        if (mistake := self._mistake(join)) is not None:
            self._refuse(name, label, mistake)
            return
        place = self._places[join.stage]
        if place.node is not None and place.node.name != name:
            silent = now - place.node.heard_at
            if silent < _TAKEOVER_SECONDS:
                taken = f"stage {join.stage} has a node that answers: {place.node.label}"
                self._refuse(name, label, NodeRefused(taken))
                return
            self._lose(place, f"did not answer for {silent:.1f} s, and {label} takes its place")
        if place.node is None:
            place.node = _Node(name, label, now)
            self._roster.set(join.stage, STAGE_LOADING, join.pod)
            self._progress(f"stage {join.stage}: {label} joined")
            self._tell_whom_we_wait_for()
        self._order(place)

    def _mistake(self, join: NodeJoin) -> NodeRefused | None:
        if not 0 <= join.stage < len(self._places):
            stages = f"the head has {len(self._places)} stages, which count from 0"
            return NodeRefused(stages, "--stage", join.stage)
        ranks = self._places[join.stage].settings.spec.tp
        if join.tp != ranks:
            same = f"the head was started with a --tp of {ranks} for stage {join.stage}: give the same"
            return NodeRefused(same, "--tp", join.tp)
        return None

    def _refuse(self, name: bytes, label: str, refusal: NodeRefused) -> None:
        mistake = f"{refusal.flag}={refusal.value}: " if refusal.flag else ""
        self._progress(f"refused {label}: {mistake}{refusal.message}")
        self._channel.send([name], refusal)

    def _order(self, place: _Place) -> None:
        """Tell a stage's node what to run; it has no effect on one that runs it already."""
        if place.node is None or not place.boots:
            return
        boot = place.boots[0]
        order = RunStage(
            head=self._head,
            model=place.settings.model,
            architecture=self._architecture,
            spec=place.settings.spec,
            threads=place.settings.threads,
            incarnation=boot.incarnation,
            log_level=boot.log_level,
        )
        self._channel.send([place.node.name], order)

    def _take(self, place: _Place, node: _Node, message: NodeMessage) -> None:
        stage = place.settings.spec.stage
        if isinstance(message, NodeBeat):
            node.resident_bytes = message.resident_bytes
        elif isinstance(message, NodePrepared):
            node.prepared = message
        elif isinstance(message, NodeProgress):
            self._progress(f"stage {stage}: {message.message}")
        elif isinstance(message, RankEnded):
            boot = place.boots.get(message.rank)
            if boot is not None and boot.incarnation == message.incarnation:
                self._troubles.append(RankDied(boot, message.exit_code, message.reason, message.log_tail))
        elif isinstance(message, NodeFailed):
            error = message.failed.input_error()
            assert error is not None, "a node fails at nothing but its input"
            self._progress(f"stage {stage}: {node.label} cannot run it")
            self._troubles.append(error)
        elif isinstance(message, NodeToldToEnd):
            node.asked_at = time.monotonic()
            self._progress(f"stage {stage}: {node.label} was told to end")
        elif isinstance(message, NodeLeft):
            self._lose(place, f"left: {message.reason}")

    def _answer_those_who_ask(self, now: float) -> None:
        """While this head drains, a stage stays to the end: it is told that the replica is over."""
        for place in self._places:
            node = place.node
            if self._is_draining or node is None or node.asked_at is None:
                continue
            if now - node.asked_at > _DRAIN_BEGINS_SECONDS:
                node.asked_at = None
                self._channel.send([node.name], MayEnd())

    def _lose(self, place: _Place, reason: str) -> None:
        assert place.node is not None
        self._troubles.append(StageLeft(place.settings.spec.stage, f"{place.node.label} {reason}"))
        place.node = None
        # Their successors come with the next start().
        place.boots.clear()
        self._roster.lose(place.settings.spec.stage)
        self._tell_whom_we_wait_for()

    def _tell_whom_we_wait_for(self) -> None:
        missing = [str(place.settings.spec.stage) for place in self._places if place.node is None]
        which = f"stage{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
        line = f"waiting for {which} of {len(self._places)}" if missing else ""
        if line and line != self._waited_for:
            # Only what changes is a sign of life: nobody waits for ever because of the lines about it.
            self._progress(line)
        self._waited_for = line
