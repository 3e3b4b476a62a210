"""The one place where a rank's thread waits: for the engine core, for step results, and for its links' threads.

What arrives is sorted here and refused when it is of another epoch. Admissions and plans stay in one queue: a plan may
only be run after what was sent before it.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable

import zmq

from stageline_engine.comm.channel import RankChannel
from stageline_engine.comm.commands import Allocate, Connect, InitRank, WarmUp
from stageline_engine.comm.feedback import FeedbackReceiver
from stageline_engine.core.errors import StaleEpochError
from stageline_engine.core.messages import AdmitSequence, StepPlan, StepResult

_log = logging.getLogger(__name__)
SetUpCommand = InitRank | Allocate | Connect | WarmUp


class EpochEnded(Exception):
    """A set-up command arrived while steps were run: what was begun is given up."""


class Inbox:
    """See the module. ``on_plan`` is called as soon as a plan is known, long before it is run."""

    def __init__(self, channel: RankChannel) -> None:
        self.epoch = 0
        self._is_live = False
        self.commands: deque[SetUpCommand] = deque()
        self.work: deque[AdmitSequence | StepPlan] = deque()
        self.results: deque[StepResult] = deque()
        self.on_plan: Callable[[StepPlan], None] | None = None
        self._channel = channel
        self._feedback: FeedbackReceiver | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = zmq.Poller()
        self._poller.register(channel.socket, zmq.POLLIN)
        self._poller.register(self._wake, zmq.POLLIN)

    def begin_epoch(self, epoch: int) -> None:
        """Forget what belongs to the epoch before, and take what belongs to this one."""
        self.epoch = epoch
        self.end_epoch()
        self._is_live = True

    def end_epoch(self) -> None:
        """Refuse everything but another InitRank."""
        self._is_live = False
        self.commands = deque(command for command in self.commands if command.epoch > self.epoch)
        self.work.clear()
        self.results.clear()
        self.on_plan = None
        if self._feedback is not None:
            self._poller.unregister(self._feedback.socket)
            self._feedback = None

    def listen_to(self, feedback: FeedbackReceiver) -> None:
        """Take step results from here until the epoch ends."""
        self._feedback = feedback
        self._poller.register(feedback.socket, zmq.POLLIN)

    def notify(self) -> None:
        """Wake the waiting thread; for the threads of links."""
        os.eventfd_write(self._wake, 1)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait, as long as it takes.

        Raises:
            EpochEnded: a set-up command is there.
        """
        self.check_epoch()
        while not condition():
            self._look(None)
            self.check_epoch()

    def check_epoch(self) -> None:
        """Raise EpochEnded if a set-up command is there."""
        if self.commands:
            raise EpochEnded

    def wait_command(self) -> SetUpCommand:
        """The next set-up command; plans wait."""
        while not self.commands:
            self._look(None)
        return self.commands.popleft()

    def look(self) -> None:
        """Take what has arrived, without waiting."""
        self._look(0)

    def _look(self, timeout_ms: int | None) -> None:
        readable = dict(self._poller.poll(timeout_ms))
        if self._wake in readable:
            os.eventfd_read(self._wake)
        if self._feedback is not None and self._feedback.socket in readable:
            self.results.extend(result for result in self._feedback.receive() if self._is_current(result.epoch))
        if self._channel.socket in readable:
            for message in self._channel.receive():
                self._sort(message)

    def _sort(self, message: SetUpCommand | AdmitSequence | StepPlan) -> None:
        if isinstance(message, InitRank):
            if message.epoch > self.epoch:
                # What was to be done in older epochs is void, another InitRank included.
                self.commands.clear()
                self.commands.append(message)
            else:
                _log.warning("%s", StaleEpochError(message.epoch, self.epoch))
        elif not self._is_current(message.epoch):
            return
        elif isinstance(message, AdmitSequence | StepPlan):
            self.work.append(message)
            if isinstance(message, StepPlan) and self.on_plan is not None:
                self.on_plan(message)
        else:
            self.commands.append(message)

    def _is_current(self, epoch: int) -> bool:
        if epoch != self.epoch:
            _log.warning("%s", StaleEpochError(epoch, self.epoch))
        return self._is_live and epoch == self.epoch
