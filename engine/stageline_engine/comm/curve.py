"""Keys on every socket between the processes of a replica: encrypted, and closed to everyone without the key pair.

One CURVE key pair belongs to a replica and all its processes hold it, so server and clients are known by the same
public key. libzmq asks a handler inside the process (ZeroMQ RFC 27) whether a client may come in; without one, CURVE
would prove the server to the client only.
"""

from __future__ import annotations

import logging
import threading

import zmq
from zmq.utils import z85

from stageline_engine.comm.codec import MAX_MESSAGE_BYTES
from stageline_engine.comm.commands import LOOPBACK, ReplicaKeys

_log = logging.getLogger(__name__)
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_QUEUED_MESSAGES = 4096
"""Per peer and direction. Plans in flight are few; a peer that lets so many messages lie has stopped."""
_RECONNECT_MS = 1000
"""Longest time between two tries to reach a peer that is not there."""
_HANDSHAKE_MS = 5000
"""A connection that has not proved itself by then is closed, so that idle strangers do not hold file descriptors."""


def new_keys() -> ReplicaKeys:
    """A fresh key pair for one replica."""
    public, secret = zmq.curve_keypair()
    return ReplicaKeys(public.decode(), secret.decode())


def endpoint_of(host: str, port: int | str) -> str:
    """ZeroMQ's way to write an address or name and a port."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


class KeyedContext:
    """A ZeroMQ context whose sockets all carry the replica's keys.

    Its gate is a thread that answers libzmq's questions about clients and sleeps otherwise. Not usable across a fork.
    """

    def __init__(self, keys: ReplicaKeys) -> None:
        self.keys = keys
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._gate: threading.Thread | None = None

    def bind(self, kind: int, address: str = LOOPBACK, port: int = 0) -> tuple[zmq.Socket[bytes], str]:
        """A socket that listens on an address of this machine, and its endpoint; port 0: the system chooses one.

        Raises:
            OSError: the address is not one of this machine's, or the port is taken.
        """
        if self._gate is None:
            self._open_gate()
        socket = self._make(kind)
        socket.curve_server = True
        socket.zap_domain = b"stageline"
        socket.ipv6 = ":" in address
        try:
            socket.bind(endpoint_of(address, port or "*"))
        except zmq.ZMQError as error:
            self.discard(socket)
            raise OSError(error.errno, f"cannot listen on {address} port {port}: {error.strerror}") from error
        return socket, socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def connect(self, kind: int, endpoint: str, identity: bytes = b"") -> zmq.Socket[bytes]:
        """A socket that connects to one of :meth:`bind`."""
        socket = self._make(kind)
        socket.curve_serverkey = self.keys.public.encode()
        socket.ipv6 = "[" in endpoint
        socket.reconnect_ivl_max = _RECONNECT_MS
        # Nothing is queued for a peer that is not there: it would be delivered to its successor.
        socket.immediate = True
        if identity:
            socket.routing_id = identity
        socket.connect(endpoint)
        return socket

    def discard(self, socket: zmq.Socket[bytes]) -> None:
        """Close one socket at once; what it has not sent is dropped."""
        self._sockets.remove(socket)
        socket.close(linger=0)

    def close(self, linger_ms: int = 0) -> None:
        """Close every socket, and end the gate. May be called twice.

        What was sent and has not left yet is dropped after so long.
        """
        while self._sockets:
            self._sockets.pop().close(linger=linger_ms)
        self._context.term()
        if self._gate is not None:
            self._gate.join()

    def _make(self, kind: int) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._sockets.append(socket)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = _QUEUED_MESSAGES
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.handshake_ivl = _HANDSHAKE_MS
        socket.curve_publickey = self.keys.public.encode()
        socket.curve_secretkey = self.keys.secret.encode()
        return socket

    def _open_gate(self) -> None:
        questions: zmq.Socket[bytes] = self._context.socket(zmq.REP)
        questions.linger = 0
        questions.bind(_ZAP_ENDPOINT)
        member = z85.decode(self.keys.public)
        self._gate = threading.Thread(target=_guard, args=(questions, member), name="curve-gate", daemon=True)
        self._gate.start()


def _guard(questions: zmq.Socket[bytes], member: bytes) -> None:
    """Let in whoever holds the replica's key pair; returns when the context ends."""
    try:
        while True:
            question = questions.recv_multipart()
            version, request_id, _domain, address, _routing_id, mechanism, *credentials = question
            is_member = version == _ZAP_VERSION and mechanism == b"CURVE" and credentials == [member]
            if not is_member:
                _log.warning("a peer at %s without the replica's key was refused", address.decode("ascii", "replace"))
            status = (b"200", b"OK", b"member") if is_member else (b"400", b"no member", b"")
            questions.send_multipart([_ZAP_VERSION, request_id, *status, b""])
    except zmq.ContextTerminated:
        questions.close(linger=0)
