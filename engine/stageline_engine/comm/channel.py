"""The control channel: one ROUTER in the engine core, one DEALER in each rank, and in each node of another machine.

What is malformed, too long or from an unknown peer is dropped with a line in the log; it never ends anything.
Never PUB: a subscriber that reconnects would be given stale plans.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import msgspec
import zmq

from stageline_engine.comm.codec import BadMessageError, Codec, encode
from stageline_engine.comm.commands import LOOPBACK, RankBoot, RankCommand, RankReply
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.node_commands import NODE_PREFIX, NodeMessage

_log = logging.getLogger(__name__)


class HeadChannel:
    """The engine core's end. Ranks are named by :attr:`RankBoot.identity`; others are not listened to.

    Args:
        address, port: where it listens; see :meth:`KeyedContext.bind`.
        takes_nodes: whether peers that call themselves nodes are listened to: they choose their names themselves.
    """

    def __init__(
        self, context: KeyedContext, address: str = LOOPBACK, port: int = 0, *, takes_nodes: bool = False
    ) -> None:
        self.socket, self.endpoint = context.bind(zmq.ROUTER, address, port)
        self.socket.router_mandatory = True
        self._codec: Codec[RankReply] = Codec(RankReply)
        self._node_codec: Codec[NodeMessage] | None = Codec(NodeMessage) if takes_nodes else None
        self._members: set[bytes] = set()

    def expect(self, identity: bytes) -> None:
        """Listen to this rank from now on."""
        self._members.add(identity)

    def forget(self, identity: bytes) -> None:
        """Drop what this rank may still say."""
        self._members.discard(identity)

    def send(self, identities: Iterable[bytes], message: msgspec.Struct) -> list[bytes]:
        """Encode once, send to each; never blocks. Returns those that are not there, or take nothing any more.

        Raises:
            BadMessageError: the message is too long.
        """
        payload = encode(message)
        return [identity for identity in identities if not self._send(identity, payload)]

    def receive(self) -> Iterator[tuple[bytes, RankReply | NodeMessage]]:
        """Everything that has arrived, with the name of the rank or node that sent it, without waiting."""
        while True:
            try:
                identity, *payload = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            codec = self._codec_of(identity)
            if codec is None or len(payload) != 1:
                _log.warning("dropped a message of an unknown peer %r", identity[:40])
                continue
            try:
                message = codec.decode(payload[0])
            except BadMessageError as error:
                kind = "node" if codec is self._node_codec else "rank"
                _log.warning("dropped a message of %s %s: %s", kind, identity.decode(errors="replace"), error)
                continue
            yield identity, message

    def _codec_of(self, identity: bytes) -> Codec[RankReply] | Codec[NodeMessage] | None:
        if identity in self._members:
            return self._codec
        return self._node_codec if identity.startswith(NODE_PREFIX) else None

    def _send(self, identity: bytes, payload: bytes) -> bool:
        try:
            self.socket.send_multipart((identity, payload), zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True


class RankChannel:
    """A rank's end."""

    def __init__(self, context: KeyedContext, boot: RankBoot) -> None:
        self.socket = context.connect(zmq.DEALER, boot.endpoint, boot.identity)
        self._codec: Codec[RankCommand] = Codec(RankCommand)

    def send(self, message: msgspec.Struct) -> None:
        """Waits while the engine core is not connected yet; when it is gone for good, others end the rank."""
        self.socket.send(encode(message))

    def receive(self) -> Iterator[RankCommand]:
        """Everything that has arrived, without waiting."""
        while True:
            try:
                payload = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                yield self._codec.decode(payload)
            except BadMessageError as error:
                _log.warning("dropped a message of the engine core: %s", error)
