"""Joins a few processes to a group without a server: the processes swap one value each.

Gloo first: it is made over a store that only its own process sees. Gloo puts its own listening address there under
``0/<number>`` and then waits for the others' (torch 2.15: nothing else is stored); we carry these values over the keyed
control channel, and with them where each member's tensors lie. So there is no global group, no TCP store, and a group
of another epoch can not be joined by mistake. Members on GPUs of their own then join NCCL, whose unique id goes over
gloo.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import cast

import msgspec
import torch
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed import ProcessGroupGloo

from stageline_engine.comm.commands import LOOPBACK
from stageline_engine.comm.groups import BACKSTOP, GlooGroup, Group, TorchGroup
from stageline_engine.comm.nccl import NcclGroup
from stageline_engine.comm.transport import can_use_nccl, place_of
from stageline_engine.core.errors import LinkFailedError

_log = logging.getLogger(__name__)
_OWN_VALUE_TIMEOUT = timedelta(seconds=20)


class _Value(msgspec.Struct, frozen=True, array_like=True):
    """What a member tells the others."""

    place: str
    address: bytes
    """Gloo's."""


class GroupEnd:
    """One process's end of a group that is being made.

    Args:
        name: of the group, unique within an epoch; all members give the same.
        number: of this member, below ``size``.
        device: where this member's tensors lie.
        one_way: as in :class:`NcclGroup`.
        notify: called from another thread when :meth:`join` would not wait any more.
        own_address: of this machine, where gloo listens.
    """

    def __init__(
        self,
        name: str,
        epoch: int,
        number: int,
        size: int,
        device: torch.device,
        notify: Callable[[], None],
        one_way: bool,
        own_address: str = LOOPBACK,
    ) -> None:
        self._name = f"epoch {epoch} {name}"
        self._number = number
        self._size = size
        self._device = device
        self._one_way = one_way
        self._own_address = own_address
        self._notify = notify
        self._has_ended = False
        self._is_abandoned = False
        self._store = PrefixStore(f"{epoch}/{name}", HashStore())
        self._places = {number: place_of(device)}
        self._group: Group | None = None
        self._error: Exception | None = None
        # Making the group waits for the other members, so it needs a thread; a daemon, because an end that is
        # abandoned at an epoch change is never connected.
        self._thread = threading.Thread(target=self._construct, name=f"join {name}", daemon=True)
        self._thread.start()

    def value(self) -> bytes:
        """What the other members need; opaque, under 1 KB."""
        key = self._key(self._number)
        try:
            self._store.wait([key], _OWN_VALUE_TIMEOUT)
        except RuntimeError as error:
            raise LinkFailedError(f"{self._name}: could not listen: {self._error or error}") from error
        return msgspec.msgpack.encode(_Value(self._places[self._number], self._store.get(key)))

    def supply(self, values: Mapping[int, bytes]) -> None:
        """Take the members' values; connecting begins. Does not wait."""
        others = {
            number: msgspec.msgpack.decode(values[number], type=_Value)
            for number in range(self._size)
            if number != self._number
        }
        # Before any address: with the last of them the thread goes on.
        self._places |= {number: other.place for number, other in others.items()}
        for number, other in others.items():
            self._store.set(self._key(number), cast(str, other.address))

    @property
    def is_settled(self) -> bool:
        """Whether all members are connected, or one cannot be reached."""
        return self._has_ended

    def join(self) -> Group:
        """Wait until all members are connected. A process supplies all its ends before it joins one.

        Raises:
            LinkFailedError: a member cannot be reached.
        """
        self._thread.join()
        if self._group is None:
            raise LinkFailedError(f"{self._name}: could not connect: {self._error}")
        return self._group

    def close(self) -> None:
        """Leave the group, or abandon what is being made; nothing is waited for."""
        self._is_abandoned = True
        if self._group is not None:
            self._group.close()

    @staticmethod
    def _key(number: int) -> str:
        return f"0/{number}"

    def _construct(self) -> None:
        try:
            self._group = self._join_members()
        except Exception as error:
            # Whatever it is, join() tells; without this a rank would wait for ever.
            self._error = error
        if self._group is not None and self._is_abandoned:
            self._group.close()
        self._has_ended = True
        self._notify()

    def _join_members(self) -> Group:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname=self._own_address)]
        options._threads = 1
        options._timeout = BACKSTOP
        host = cast(TorchGroup, ProcessGroupGloo(self._store, self._number, self._size, options))
        if not can_use_nccl(list(self._places.values())):
            _log.debug("%s: gloo through host memory", self._name)
            return GlooGroup(host)
        _log.debug("%s: NCCL", self._name)
        return NcclGroup(self._name, host, self._number, self._size, self._device, self._one_way)
