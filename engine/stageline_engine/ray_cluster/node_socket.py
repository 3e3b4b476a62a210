"""The Unix socket between a stage's actor and the process that owns the stage's ranks: a request, an answer, in turn.

Each is a frame: length as 4 bytes, big-endian, then the bytes. The end of the connection is the end of the process.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

MAX_FRAME = 16 * 1024 * 1024
_LENGTH = 4


class NodeDoor:
    """The side of the process that owns the ranks: listens at ``path``, in a folder that only this user can enter.

    Wait for :meth:`fileno`, then :meth:`poll` and :meth:`answer`. Use it from one thread.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._epoll = select.epoll()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._callers: dict[int, tuple[socket.socket, bytearray]] = {}

    def fileno(self) -> int:
        """Readable when :meth:`poll` has something to do."""
        return self._epoll.fileno()

    def poll(self) -> list[tuple[int, bytes]]:
        """Requests since the last call, each with the number of its caller; never waits."""
        requests: list[tuple[int, bytes]] = []
        for descriptor, _ in self._epoll.poll(0):
            if descriptor == self._listener.fileno():
                caller, _ = self._listener.accept()
                self._callers[caller.fileno()] = (caller, bytearray())
                self._epoll.register(caller, select.EPOLLIN)
            else:
                requests += [(descriptor, frame) for frame in self._read(descriptor)]
        return requests

    def answer(self, caller: int, data: bytes) -> None:
        """Send an answer; a caller that has gone is no error."""
        if caller in self._callers:
            with suppress(OSError):
                send_frame(self._callers[caller][0], data)

    def close(self) -> None:
        """May be called twice."""
        if self._epoll.closed:
            return
        self._epoll.close()
        self._listener.close()
        for caller, _ in self._callers.values():
            caller.close()
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _read(self, descriptor: int) -> list[bytes]:
        caller, buffer = self._callers[descriptor]
        try:
            data = caller.recv(64 * 1024)
        except ConnectionResetError:
            data = b""
        buffer += data
        frames = []
        while (end := _frame_end(buffer)) is not None and len(buffer) >= end:
            frames.append(bytes(buffer[_LENGTH:end]))
            del buffer[:end]
        if not data or (end is not None and end > MAX_FRAME):
            self._epoll.unregister(descriptor)
            caller.close()
            del self._callers[descriptor]
        return frames


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send one frame, waiting until the system took it."""
    connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)


def receive_frame(connection: socket.socket) -> bytes:
    """The next frame, waiting for it.

    Raises:
        EOFError: the other side has ended.
    """
    length = int.from_bytes(_receive(connection, _LENGTH), "big")
    if length > MAX_FRAME:
        raise EOFError(f"a frame of {length} bytes")
    return _receive(connection, length)


def _receive(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            more = connection.recv(size - len(data))
        except ConnectionResetError:
            more = b""
        if not more:
            raise EOFError("the connection ended")
        data += more
    return bytes(data)


def _frame_end(buffer: bytearray) -> int | None:
    if len(buffer) < _LENGTH:
        return None
    return _LENGTH + int.from_bytes(buffer[:_LENGTH], "big")
