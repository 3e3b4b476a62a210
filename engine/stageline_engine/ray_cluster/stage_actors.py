"""The engine core's side of Ray: one actor for each stage, placed and watched. Knows nothing of Ray but its driver."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import msgspec

from stageline_engine.agent.rank_log import RankLog
from stageline_engine.ray_cluster import settings
from stageline_engine.ray_cluster.messages import (
    MAX_DATAGRAM,
    DriverEvent,
    Place,
)

CLOSE_SECONDS = 1.8


class RayLost(msgspec.Struct, frozen=True):
    """The driver has ended: Ray's head or this machine's raylet is gone. In pods, stages go on without."""

    reason: str


class StageActors:
    """Connects and places in a child process; returns at once. Make it in a thread that lives as long.

    Use it from one thread.

    Raises:
        ConfigurationError: stages have nodes of their own, and Ray's token is missing.
    """

    def __init__(self, place: Place) -> None:
        environment = dict(os.environ) if place.needs else settings.environment(os.environ)
        self._place = place
        self._decoder = msgspec.msgpack.Decoder(DriverEvent)
        self._log = RankLog("ray driver")
        self._is_lost = False
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stageline_engine.ray_cluster.driver", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=self._log.write_end,
                stderr=self._log.write_end,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,
            )
        self._log.release_write_end()
        self._socket.send(msgspec.msgpack.encode(place))

    def poll(self) -> list[DriverEvent | RayLost]:
        """What happened since the last call, without waiting; nothing more comes after a RayLost."""
        events: list[DriverEvent | RayLost] = []
        self._log.read()
        while not self._is_lost:
            try:
                data = self._socket.recv(MAX_DATAGRAM)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if data:
                events.append(self._decoder.decode(data))
            else:
                events.append(self._lose())
        return events

    def close(self) -> None:
        """End the actors, and the nodes that they started, within 2 s. May be called twice."""
        self._socket.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        try:
            self._process.wait(deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _lose(self) -> RayLost:
        self._is_lost = True
        code = self._process.wait()
        self._log.read()
        return RayLost(reason=f"the Ray driver ended (exit code {code})\n{self._log.tail()}")
