"""The Unix socket by which a stage's actor sees that the process that owns the stage's ranks lives.

Nothing is said over it: the end of a connection is the end of that process.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress


class NodeDoor:
    """The side of the process that owns the ranks: listens at ``path``, in a folder that only this user can enter.

    Wait for :meth:`fileno`, then :meth:`poll`. Use it from one thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._epoll = select.epoll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._callers: dict[int, socket.socket] = {}

    def fileno(self) -> int:
        """Readable when :meth:`poll` has something to do."""
        return self._epoll.fileno()

    def poll(self) -> None:
        """Let in who knocked, and let go who left; never waits."""
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._listener.fileno():
                caller, _ = self._listener.accept()
                self._callers[caller.fileno()] = caller
                self._epoll.register(caller, select.EPOLLIN)
            else:
                # Actors say nothing, so this is one's end; a stranger that talks is shown out.
                self._epoll.unregister(descriptor)
                self._callers.pop(descriptor).close()

    def close(self) -> None:
        """May be called twice."""
        if self._epoll.closed:
            return
        self._epoll.close()
        self._listener.close()
        for caller in self._callers.values():
            caller.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)


def wait_for_end(connection: socket.socket) -> None:
    """Return when the process at the other side of a connection to its door has ended, or closed it."""
    with suppress(ConnectionResetError):
        while connection.recv(1):
            pass
