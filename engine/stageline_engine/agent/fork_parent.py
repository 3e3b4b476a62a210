"""The process from which ranks are forked: `python -m stageline_engine.agent.fork_parent FD AGENT_PID ARCHITECTURE`.

It imports torch and the model's class once (seconds), so that a rank starts in milliseconds and shares that memory.
It stays single-threaded and runs no torch operation: a thread pool made before a fork does not exist after it. It
watches its ranks by their process descriptors and tells the agent how each one ended.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec

from stageline_engine.agent.death_signal import die_with_parent
from stageline_engine.agent.protocol import (
    MAX_DATAGRAM,
    AgentMessage,
    Exited,
    Fork,
    Forked,
    ForkParentMessage,
    Preloaded,
    Signal,
)
from stageline_engine.comm.commands import RankBoot
from stageline_engine.comm.rank_counters import RankCounters
from stageline_engine.core.logs import JSON, set_up_logging

_log = logging.getLogger(__name__)


class ForkParent:
    """Takes the agent's messages until the agent closes the socket; then kills what is left and returns."""

    def __init__(self, agent: socket.socket, run_rank: Callable[[RankBoot, RankCounters], int]) -> None:
        self._agent = agent
        self._run_rank = run_rank
        self._selector = selectors.DefaultSelector()
        self._selector.register(agent, selectors.EVENT_READ)
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(AgentMessage)
        self._pids: dict[int, int] = {}
        """Process ids by process descriptor."""

    def serve(self) -> None:
        """The loop."""
        self._tell(Preloaded())
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is not self._agent:
                    self._collect(key.fd)
                    continue
                data, descriptors, _, _ = socket.recv_fds(self._agent, MAX_DATAGRAM, 2)
                if not data:
                    self._kill_all()
                    return
                self._handle(self._decoder.decode(data), descriptors)

    def _handle(self, message: AgentMessage, descriptors: list[int]) -> None:
        if isinstance(message, Fork):
            self._fork(message.boot, *descriptors)
        elif isinstance(message, Signal) and message.pid in self._pids.values():
            os.kill(message.pid, message.number)

    def _fork(self, boot: RankBoot, log: int, counters: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_rank(boot, log, counters, parent)
        os.close(log)
        os.close(counters)
        descriptor = os.pidfd_open(pid)
        self._pids[descriptor] = pid
        self._selector.register(descriptor, selectors.EVENT_READ)
        self._tell(Forked(boot.stage, boot.rank, boot.incarnation, pid))

    def _become_rank(self, boot: RankBoot, log: int, counters: int, parent: int) -> None:
        exit_code = 1
        try:
            die_with_parent(parent)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._selector.close()
            self._agent.close()
            for descriptor in self._pids:
                os.close(descriptor)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            exit_code = self._run_rank(boot, RankCounters(counters))
        except BaseException:
            _log.exception("the rank failed")
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            # Not sys.exit: abandoned link threads may wait for ever, and the parent's stack is below this frame.
            os._exit(exit_code)

    def _collect(self, descriptor: int) -> None:
        pid = self._pids.pop(descriptor)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._tell(Exited(pid, os.waitstatus_to_exitcode(status)))

    def _kill_all(self) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)

    def _tell(self, message: ForkParentMessage) -> None:
        # An agent that is gone is noticed at the next read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._agent.send(self._encoder.encode(message))


def main(arguments: list[str]) -> int:
    """Entry point of the process."""
    descriptor, agent_pid, architecture = int(arguments[0]), int(arguments[1]), arguments[2]
    die_with_parent(agent_pid)
    # The agent reads it, and formats it for all.
    set_up_logging(logging.INFO, JSON, "fork-parent")
    # A terminal sends Ctrl-C, and a service manager SIGTERM, to every process; the head decides when ranks end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Only now: these imports take seconds, in which the agent may die.
    rank = importlib.import_module("stageline_engine.stage.rank")
    importlib.import_module("stageline_engine.models.preload").preload_class(architecture)
    # Ranks never write to what exists by now, so the collector must not either: its marks would unshare the pages.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=descriptor) as agent:
        ForkParent(agent, rank.run_rank).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
