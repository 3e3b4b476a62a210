"""Step results on the short way: from rank 0 of the last stage to every rank of stage 0, past the head.

A decode row's token is an input of stage 0, so this way is part of every token's latency.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import zmq

from stageline_engine.comm.codec import BadMessageError, Codec, encode
from stageline_engine.comm.commands import LOOPBACK
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.core.errors import LinkFailedError
from stageline_engine.core.messages import StepResult

_log = logging.getLogger(__name__)
_CONNECT_MS = 10_000


class FeedbackReceiver:
    """A stage-0 rank's end; ``address`` is what the sender connects to."""

    def __init__(self, context: KeyedContext, own_address: str = LOOPBACK) -> None:
        self._context = context
        self.socket, self.address = context.bind(zmq.PULL, own_address)
        self._codec: Codec[StepResult] = Codec(StepResult)

    def receive(self) -> Iterator[StepResult]:
        """Everything that has arrived, without waiting."""
        while True:
            try:
                payload = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if len(payload) != 1:
                    raise BadMessageError(f"{len(payload)} frames")
                yield self._codec.decode(payload[0])
            except BadMessageError as error:
                _log.warning("dropped a step result: %s", error)

    def close(self) -> None:
        """Close the socket."""
        self._context.discard(self.socket)


class FeedbackSender:
    """The last stage's end."""

    def __init__(self, context: KeyedContext, addresses: Sequence[str]) -> None:
        self._context = context
        self._sockets = [context.connect(zmq.PUSH, address) for address in addresses]
        for socket, address in zip(self._sockets, addresses, strict=True):
            if not socket.poll(_CONNECT_MS, zmq.POLLOUT):
                self.close()
                raise LinkFailedError(f"stage 0 at {address} did not take the connection for step results")

    def send(self, result: StepResult) -> None:
        """To every address; never waits.

        Raises:
            LinkFailedError: a rank of stage 0 is gone, or takes nothing any more.
        """
        if not self._sockets:
            return
        payload = encode(result)
        for socket in self._sockets:
            try:
                socket.send(payload, zmq.NOBLOCK)
            except zmq.Again as error:
                raise LinkFailedError("a rank of stage 0 takes no step results") from error

    def close(self) -> None:
        """Close the sockets; what they have not sent is dropped."""
        while self._sockets:
            self._context.discard(self._sockets.pop())
