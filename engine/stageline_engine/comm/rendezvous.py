"""Joins a few processes to a torch.distributed group without a server: the processes swap one value each.

A group is made over a store that only its own process sees. Gloo puts its own listening address there under
``0/<number>`` and then waits for the others' (torch 2.15: nothing else is stored); we carry these values over the keyed
control channel. So there is no global group, no TCP store, and a group of another epoch can not be joined by mistake.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Protocol, cast

import torch
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed import ProcessGroupGloo

from stageline_engine.core.errors import LinkFailedError

BACKSTOP = timedelta(minutes=30)
"""Longest wait of any operation on a group. A hang is found by the head, which knows how long a step should take, and
ended by killing the hung process, which wakes its neighbours at once; this only ends threads that were abandoned."""
_OWN_VALUE_TIMEOUT = timedelta(seconds=20)
LOOPBACK = "127.0.0.1"


class Operation(Protocol):
    """Something that was begun on a group."""

    def wait(self) -> object:
        """Until it is done. Raises RuntimeError when a member is gone."""


class Group(Protocol):
    """What we use of a torch.distributed group; torch's own type hints leave these methods out."""

    def send(self, tensors: list[torch.Tensor], number: int, tag: int) -> Operation:
        """Begin to send one tensor to member ``number``."""

    def recv(self, tensors: list[torch.Tensor], number: int, tag: int) -> Operation:
        """Begin to receive one tensor from member ``number``."""

    def allreduce(self, tensors: list[torch.Tensor]) -> Operation:
        """Begin to sum one tensor over the members, in place."""

    def allgather(self, outputs: list[list[torch.Tensor]], tensors: list[torch.Tensor]) -> Operation:
        """Begin to collect one tensor of each member."""


class GlooEnd:
    """One process's end of a gloo group that is being made.

    Args:
        name: of the group, unique within an epoch; all members give the same.
        number: of this member, below ``size``.
        notify: called from another thread when :meth:`join` would not wait any more.
    """

    def __init__(self, name: str, epoch: int, number: int, size: int, notify: Callable[[], None]) -> None:
        self._name = f"epoch {epoch} {name}"
        self._number = number
        self._size = size
        self._notify = notify
        self._has_ended = False
        self._store = PrefixStore(f"{epoch}/{name}", HashStore())
        self._group: Group | None = None
        self._error: RuntimeError | None = None
        # The constructor waits for the other members' values, so it needs a thread; a daemon, because an end that is
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
        return self._store.get(key)

    def supply(self, values: Mapping[int, bytes]) -> None:
        """Take the members' values; connecting begins. Does not wait."""
        for number in range(self._size):
            if number != self._number:
                self._store.set(self._key(number), cast(str, values[number]))

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

    @staticmethod
    def _key(number: int) -> str:
        return f"0/{number}"

    def _construct(self) -> None:
        try:
            options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
            options._devices = [ProcessGroupGloo.create_device(hostname=LOOPBACK)]
            options._threads = 1
            options._timeout = BACKSTOP
            self._group = cast(Group, ProcessGroupGloo(self._store, self._number, self._size, options))
        except RuntimeError as error:
            self._error = error
        self._has_ended = True
        self._notify()
