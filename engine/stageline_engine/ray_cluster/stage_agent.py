"""StageAgent: the Ray actor that stands for a stage. It owns no rank: it reaches, or starts, the process that does.

In a pod that process, `stageline node`, was there before and outlives the actor; elsewhere the actor starts it, and it
ends with the actor. Only Ray's workers import this module; arguments and results are bytes.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import ray

from stageline_engine.core.logs import set_up_logging
from stageline_engine.ray_cluster.messages import ActorHome, NodeEnded, NodeOrder
from stageline_engine.ray_cluster.node_socket import wait_for_end
from stageline_engine.ray_cluster.processes import CLOSE_SECONDS, Supervised
from stageline_engine.ray_cluster.settings import NODE_SOCKET_VARIABLE

_KEY_MODE = 0o400


class StageAgent:
    """See the module.

    Args:
        order: a NodeOrder, or b"" for a machine where the node runs already.
    """

    def __init__(self, order: bytes) -> None:
        self._child: _OwnNode | None = None
        if order:
            decoded = msgspec.msgpack.decode(order, type=NodeOrder)
            set_up_logging(decoded.log_level, decoded.log_format, "ray-actor")
            self._child = _OwnNode(decoded)
            self._path = self._child.socket_path
        else:
            self._path = os.environ[NODE_SOCKET_VARIABLE]

    def home(self, nothing: bytes) -> bytes:
        """Where this is: an ActorHome."""
        context = ray.get_runtime_context()
        home = ActorHome(address=ray.util.get_node_ip_address(), ray_node=context.get_node_id(), pid=os.getpid())
        return msgspec.msgpack.encode(home)

    def watch(self, nothing: bytes) -> bytes:
        """Returns a NodeEnded when the node has ended."""
        if self._child is not None:
            return msgspec.msgpack.encode(self._child.wait())
        with suppress(OSError), self._connect() as connection:
            wait_for_end(connection)
        return msgspec.msgpack.encode(NodeEnded(exit_code=None, log_tail=""))

    def end(self, nothing: bytes) -> bytes:
        """Have the node end that was started here; returns when it has, within 2 s."""
        if self._child is not None:
            self._child.end()
        return b""

    def _connect(self) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path)
            except OSError:
                connection.close()
                # A node that was just started does not listen yet.
                if self._child is None or self._child.has_ended:
                    raise
                time.sleep(0.05)
            else:
                return connection


class _OwnNode:
    """A `stageline node` of this actor, in a thread that lives as long as it: see :class:`Supervised`."""

    def __init__(self, order: NodeOrder) -> None:
        folder = Path(tempfile.mkdtemp(prefix="sl-"))
        self.socket_path = str(folder / "node")
        command = [sys.executable, *order.arguments]
        if order.keys:
            keys = folder / "keys"
            keys.mkdir(mode=0o700)
            for name, content in order.keys.items():
                (keys / name).touch(_KEY_MODE)
                (keys / name).write_bytes(content)
            command.append(f"--keys={keys}")
        self._order = (command, folder)
        self._process: Supervised | None = None
        self._ended: NodeEnded | None = None
        self._change = threading.Condition()
        threading.Thread(target=self._run, daemon=True, name="node").start()

    @property
    def has_ended(self) -> bool:
        return self._ended is not None

    def wait(self) -> NodeEnded:
        with self._change:
            self._change.wait_for(lambda: self._ended is not None)
        assert self._ended is not None
        return self._ended

    def end(self) -> None:
        with self._change:
            self._change.wait_for(lambda: self._process is not None)
            assert self._process is not None
            self._process.stop()
            self._change.wait_for(lambda: self._ended is not None, timeout=CLOSE_SECONDS)

    def _run(self) -> None:
        command, folder = self._order
        environment = {**os.environ, NODE_SOCKET_VARIABLE: self.socket_path}
        process = Supervised(command, environment, folder, name="node")
        with self._change:
            self._process = process
            self._change.notify_all()
        code = process.wait()
        with self._change:
            self._ended = NodeEnded(exit_code=code, log_tail=process.log_tail())
            self._change.notify_all()
