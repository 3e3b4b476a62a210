"""Bytes of messages: msgpack of the structs in `core.messages` and `comm.commands`, nothing else, and not too many."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from stageline_engine.core.errors import StagelineError

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Longest message. A plan for 64 decode rows has under 2 KB; the longest by far is the admission of a long prompt, at
most 5 bytes a token: this is enough for a prompt of 1.6 million tokens."""

Message = TypeVar("Message")


class BadMessageError(StagelineError):
    """Bytes that are no message of the expected kind; whoever sent them is not one of us, or is damaged."""


class Codec(Generic[Message]):
    """Encodes and decodes one union of message types.

    Args:
        union: the message types that may arrive, e.g. ``RankCommand``.
    """

    def __init__(self, union: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(union)

    def decode(self, payload: bytes) -> Message:
        """Raises BadMessageError unless ``payload`` is exactly one of the message types."""
        if len(payload) > MAX_MESSAGE_BYTES:
            raise BadMessageError(f"{len(payload)} bytes: longer than {MAX_MESSAGE_BYTES}")
        try:
            return self._decoder.decode(payload)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadMessageError(f"{len(payload)} bytes: {error}") from error


_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Raises BadMessageError for a message that the receiver would refuse for its length."""
    payload = _encoder.encode(message)
    if len(payload) > MAX_MESSAGE_BYTES:
        raise BadMessageError(
            f"{type(message).__name__} has {len(payload)} bytes, more than a message may have: {MAX_MESSAGE_BYTES}"
        )
    return payload
