"""A node's end of the control channel: sends, hears, and knows when the head has fallen silent or keeps it out."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from stageline_engine.comm.codec import BadMessageError, Codec, encode
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.node_commands import NODE_PREFIX, SILENT_SECONDS, NodeCommand, NodeMessage
from stageline_engine.node.options import NodeOptions

_log = logging.getLogger(__name__)
_FLUSH_MS = 500
_FAILED_HANDSHAKES = 5
"""So many connections in a row that end before the keys were proved: it is not by chance."""


class HeadLink:
    """See the module. It connects again by itself; its name on the channel is new each time that it began anew."""

    def __init__(self, options: NodeOptions) -> None:
        self._options = options
        self._context = KeyedContext(options.keys)
        self._codec: Codec[NodeCommand] = Codec(NodeCommand)
        self._heard_at: float | None = None
        """None while the head has said nothing since the link began."""
        self._failed_handshakes = 0
        self._connect()

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Readable when :meth:`receive` or :meth:`look` has something; others after :meth:`begin_anew`."""
        return [self._socket, self._monitor]

    @property
    def is_heard(self) -> bool:
        """Whether the head is there."""
        return self._heard_at is not None and time.monotonic() - self._heard_at < SILENT_SECONDS

    @property
    def is_silent(self) -> bool:
        """Whether the head was there, and is not any more."""
        return self._heard_at is not None and not self.is_heard

    @property
    def is_kept_out(self) -> bool:
        """Whether something listens at the head's address that does not take our key."""
        return self._failed_handshakes >= _FAILED_HANDSHAKES

    def send(self, message: NodeMessage) -> bool:
        """Never waits; False: the head is not there, or takes nothing."""
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def receive(self) -> Iterator[NodeCommand]:
        """Everything that has arrived, without waiting."""
        while True:
            try:
                payload = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._heard_at = time.monotonic()
            try:
                yield self._codec.decode(payload)
            except BadMessageError as error:
                _log.warning("dropped a message of the head: %s", error)

    def look(self) -> None:
        """Take what became of connections, without waiting."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failed_handshakes = 0
            else:
                self._failed_handshakes += 1

    def begin_anew(self) -> None:
        """Give the connection up, which may be half open, for another one."""
        self._disconnect()
        self._context.discard(self._socket)
        self._heard_at = None
        self._connect()

    def close(self) -> None:
        """Leave; what was sent last still gets some time to arrive."""
        self._disconnect()
        self._context.close(_FLUSH_MS)

    def _connect(self) -> None:
        name = NODE_PREFIX + f"{self._options.stage}-{secrets.token_hex(8)}".encode()
        self._socket = self._context.connect(zmq.DEALER, self._options.endpoint, name)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )

    def _disconnect(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
