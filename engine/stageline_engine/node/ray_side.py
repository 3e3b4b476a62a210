"""Ray beside a node: in a pod its own Ray node, and the door through which the actor of the stage sees this process."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from stageline_engine.node.options import NodeOptions
from stageline_engine.ray_cluster.node_socket import NodeDoor
from stageline_engine.ray_cluster.processes import RayNode
from stageline_engine.ray_cluster.settings import NODE_SOCKET_VARIABLE, TOKEN_VARIABLE


class RaySide:
    """What the environment asks for: a socket's path, when an actor started this node; Ray's token, in a pod; nothing.

    Raises:
        ConfigurationError: Ray's authentication is switched off.
    """

    def __init__(self, options: NodeOptions) -> None:
        self._door: NodeDoor | None = None
        self._ray: RayNode | None = None
        self._folder: Path | None = None
        if path := os.environ.get(NODE_SOCKET_VARIABLE):
            self._door = NodeDoor(path)
        elif os.environ.get(TOKEN_VARIABLE):
            self._folder = Path(tempfile.mkdtemp(prefix="sl-"))
            path = str(self._folder / "node")
            self._door = NodeDoor(path)
            self._ray = RayNode(options.head_host, options.stage, options.address, path)

    def sockets(self) -> list[int]:
        """Readable when :meth:`poll` has something to do."""
        return [] if self._door is None else [self._door.fileno()]

    def poll(self) -> None:
        """Let the actor in, without waiting: it sees by the open connection that this node lives."""
        if self._door is not None:
            self._door.poll()
        if self._ray is not None:
            # Its words are read, so that it can go on to write.
            self._ray.is_up()

    def close(self) -> None:
        """End Ray on this machine within 2 s, if it is ours."""
        if self._door is not None:
            self._door.close()
        if self._ray is not None:
            self._ray.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
