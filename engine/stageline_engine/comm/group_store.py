"""The store that NCCL wants, over a gloo group: what member 0 sets, the others get.

ProcessGroupNCCL's member 0 puts NCCL's unique id there and the others wait for it (torch 2.15; nothing else is needed).
Under which key differs by version and operation, so no key is known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import torch
from torch._C._distributed_c10d import Store

from stageline_engine.comm.groups import TorchGroup, TorchWork

_TAG = 1
_MESSAGE_BYTES = 1024
_LENGTH_BYTES = 2


class GroupStore(Store):
    """Keys and values of one group, on one member. Whoever gives it to C++ keeps it: C++ does not.

    Args:
        group: gloo.
        number: of this member, below ``size``.
    """

    def __init__(self, group: TorchGroup, number: int, size: int) -> None:
        super().__init__()
        self._group = group
        self._number = number
        self._size = size
        self._values: dict[str, bytes] = {}
        self._sent: list[tuple[TorchWork, torch.Tensor]] = []

    def set(self, key: str, value: str | bytes) -> None:
        """Keep a value; member 0 tells the others, without waiting for them."""
        payload = value.encode() if isinstance(value, str) else value
        self._values[key] = payload
        if self._number == 0:
            message = _pack(key, payload)
            # Held, since nobody may ever take it.
            self._sent += [(self._group.send([message], other, _TAG), message) for other in range(1, self._size)]

    def get(self, key: str) -> bytes:
        """Wait for a value. Raises RuntimeError when member 0 is gone."""
        while key not in self._values:
            message = torch.empty(_MESSAGE_BYTES, dtype=torch.uint8)
            self._group.recv([message], 0, _TAG).wait()
            told, payload = _unpack(message)
            self._values[told] = payload
        return self._values[key]

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Wait for several values."""
        return [self.get(key) for key in keys]

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Until they are there; the group's own limit holds, whatever ``timeout``."""
        self.multi_get(keys)

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of them are known here."""
        return all(key in self._values for key in keys)


def _pack(key: str, value: bytes) -> torch.Tensor:
    payload = msgspec.msgpack.encode((key, value))
    assert len(payload) <= _MESSAGE_BYTES - _LENGTH_BYTES, f"{key}: {len(value)} bytes are no unique id"
    padded = (len(payload).to_bytes(_LENGTH_BYTES, "big") + payload).ljust(_MESSAGE_BYTES, b"\0")
    return torch.frombuffer(bytearray(padded), dtype=torch.uint8)


def _unpack(message: torch.Tensor) -> tuple[str, bytes]:
    padded = message.numpy().tobytes()
    length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
    key, value = msgspec.msgpack.decode(padded[_LENGTH_BYTES : _LENGTH_BYTES + length], type=tuple[str, bytes])
    return key, value
