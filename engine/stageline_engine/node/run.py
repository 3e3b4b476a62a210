"""The loop of a node: joins the head, does what it says for as long as it is there, and joins the next one.

    waiting ──NodeJoin──▶ joined ──RunStage──▶ working ──EpochBegan──▶ member
       ▲                                          │ another head, or this one failed: its ranks are ended
       └──────────────────────────────────────────┘

No torch here: the ranks have it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import zmq

from stageline_engine.comm.node_commands import (
    BEAT_SECONDS,
    EpochBegan,
    HeadBeat,
    MayEnd,
    NodeBeat,
    NodeCommand,
    NodeJoin,
    NodeLeft,
    NodeProgress,
    NodeRefused,
    NodeToldToEnd,
    ReplicaOver,
    RunStage,
)
from stageline_engine.core.errors import ConfigurationError, PeerError
from stageline_engine.core.logs import set_fields
from stageline_engine.node.head_link import HeadLink
from stageline_engine.node.metrics import NodeState, RankState
from stageline_engine.node.options import NodeOptions
from stageline_engine.node.probes import Probes
from stageline_engine.node.ray_side import RaySide
from stageline_engine.node.stage_work import StageWork, failed

_REMIND_SECONDS = 5.0
"""Between two lines about a head that is not there."""


class Node:
    """One life of a node. Use it from one thread, whose end is the end of the ranks.

    Args:
        progress: gets a line for each step that may last long.
        told_to_end: a descriptor that becomes readable when the node is to end.
    """

    def __init__(self, options: NodeOptions, probes: Probes, progress: Callable[[str], None], told_to_end: int) -> None:
        self._options = options
        self._probes = probes
        self._print = progress
        self._told_to_end = told_to_end
        self._ray = RaySide(options)
        self._link = HeadLink(options)
        self._work: StageWork | None = None
        self._epoch = 0
        """Of which this stage is a member; 0: of none."""
        self._is_over = False
        self._is_asking = False
        """It was told to end, and asks the head whether it may."""
        self._beat_at = 0.0
        self._remind_at = 0.0

    def run(self) -> None:
        """Until the replica is over, or the node is told to end. Nothing is left running, however it ends.

        Raises:
            ConfigurationError: the node's arguments do not fit the head's, or the model cannot be had.
            PeerError: the head does not take this node.
        """
        reason = "the replica is over"
        try:
            while not self._is_over:
                self._wait()
                if self._is_told_to_end() and not self._has_to_ask():
                    reason = "it was told to end"
                    break
                self._turn()
            if self._is_asking:
                reason = "it was told to end"
        except BaseException as error:
            reason = "it failed"
            if isinstance(error, ConfigurationError):
                self._link.send(failed(error))
            raise
        finally:
            self._end_work()
            self._link.send(NodeLeft(reason))
            self._link.close()
            self._ray.close()

    def _wait(self) -> None:
        poller = zmq.Poller()
        working = [] if self._work is None else self._work.sockets()
        for socket in [self._told_to_end, *self._link.sockets, *working, *self._ray.sockets()]:
            poller.register(socket, zmq.POLLIN)
        poller.poll(max(0, int((self._beat_at - time.monotonic()) * 1000)))

    def _is_told_to_end(self) -> bool:
        try:
            return os.eventfd_read(self._told_to_end) > 0
        except BlockingIOError:
            return False

    def _has_to_ask(self) -> bool:
        """In a pod, whether a head is there that may still need the stage. Told twice, a node ends."""
        if not self._options.pod or self._is_asking or self._work is None or not self._link.is_heard:
            return False
        self._is_asking = True
        self._print("told to end: asking the head whether it drains, and serving until it answers")
        return self._link.send(NodeToldToEnd())

    def _turn(self) -> None:
        self._probes.moved(self._why_not_ready())
        self._ray.poll()
        self._link.look()
        for command in self._link.receive():
            self._obey(command)
            if self._is_over:
                return
        if self._work is not None:
            for message in self._work.poll():
                self._link.send(message)
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + BEAT_SECONDS
            self._beat()

    def _why_not_ready(self) -> str:
        if not self._link.is_heard:
            return "the head is not there"
        return "" if self._epoch else "the stage is no member of the head's epoch yet"

    def _beat(self) -> None:
        options = self._options
        if self._link.is_kept_out:
            raise PeerError(f"what listens at {options.head_host}:{options.head_port} does not take the key of --keys")
        if self._is_asking and not (self._link.is_heard and self._work):
            self._is_over = True
            return
        if self._link.is_silent:
            self._print("the head has fallen silent: its stage is kept until another head, or the same, is there")
            self._link.begin_anew()
        if self._work is not None:
            ranks = self._work.ranks()
            self._link.send(NodeBeat(sum(rank.resident_bytes for rank in ranks)))
        else:
            ranks = []
            self._link.send(NodeJoin(options.stage, options.tp, options.pod, options.address))
        self._show(ranks)
        if not self._link.is_heard and time.monotonic() >= self._remind_at:
            self._remind_at = time.monotonic() + _REMIND_SECONDS
            self._print(f"waiting for the head at {options.head_host}:{options.head_port}")

    def _show(self, ranks: list[RankState]) -> None:
        is_ready, hears_head = not self._why_not_ready(), self._link.is_heard
        self._probes.saw(NodeState(self._options.stage, self._epoch, is_ready, hears_head, ranks))

    def _obey(self, command: NodeCommand) -> None:
        if isinstance(command, RunStage):
            self._begin(command)
        elif isinstance(command, EpochBegan):
            self._epoch = command.epoch
            set_fields(epoch=command.epoch)
            # Whoever reads the line finds the probe and the metrics to say the same.
            self._probes.moved(self._why_not_ready())
            self._show([] if self._work is None else self._work.ranks())
            self._print(f"stage {self._options.stage} is a member of epoch {command.epoch}")
        elif isinstance(command, MayEnd):
            self._is_over = True
        elif isinstance(command, HeadBeat):
            if self._work is not None and (command.asks_to_join or self._work.order.head != command.head):
                self._print("the head is another one, or has given this node up: it joins anew")
                self._end_work()
        elif isinstance(command, NodeRefused):
            if command.flag:
                raise ConfigurationError(command.flag, command.value, command.message)
            raise PeerError(f"the head does not take this node: {command.message}")
        else:
            self._leave(command)

    def _begin(self, order: RunStage) -> None:
        if self._work is not None:
            running = self._work.order
            if (running.head, running.incarnation) == (order.head, order.incarnation):
                return
            self._end_work()
        spec = order.spec
        self._print(f"stage {spec.stage} of {spec.num_stages}: layers {spec.start} to {spec.end - 1} of {order.model}")
        self._work = StageWork(self._options, order, self._tell)

    def _leave(self, over: ReplicaOver) -> None:
        self._print(f"the head ends: {over.reason}")
        self._end_work()
        if over.comes_back:
            self._link.send(NodeLeft("the head failed"))
            self._remind_at = time.monotonic() + _REMIND_SECONDS
        self._is_over = self._is_asking or not over.comes_back

    def _end_work(self) -> None:
        self._epoch = 0
        if self._work is not None:
            self._work.close()
            self._work = None

    def _tell(self, line: str) -> None:
        self._print(line)
        self._link.send(NodeProgress(line))


def run_node(options: NodeOptions, progress: Callable[[str], None]) -> int:
    """Be a node until the replica is over or a signal comes; for the main thread. Returns the exit code.

    Raises:
        ConfigurationError, PeerError: as :meth:`Node.run`.
    """
    told_to_end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        os.eventfd_write(told_to_end, 1)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    probes = Probes(options.address, options.status_port, options.stage)
    try:
        progress(f"stage {options.stage} at {options.address}: probes on port {probes.port}")
        Node(options, probes, progress, told_to_end).run()
    finally:
        probes.close()
    return 130 if received and received[0] == signal.SIGINT else 0
