"""A few joined processes that move tensors: what links and tensor-parallel groups need of it, and how gloo does it.

The other implementation is :class:`stageline_engine.comm.nccl.NcclGroup`; :mod:`stageline_engine.comm.transport` says
which one members take.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import torch

BACKSTOP = timedelta(minutes=30)
"""Longest wait of any operation on a group. A hang is found by the head, which knows how long a step should take, and
ended by killing the hung process, which wakes its neighbours at once; this only ends threads that were abandoned."""
TAG = 0
"""Of the tensors of boundaries; whatever else goes over a group has a tag of its own."""


class Operation(Protocol):
    """Something that was begun on a group."""

    def wait(self) -> object:
        """Until it is done. Raises RuntimeError when a member is gone."""


class Group(Protocol):
    """Members that are joined in one epoch. Every method but close raises RuntimeError when a member is gone."""

    memory: torch.device
    """Where tensors have to lie; they also have to be contiguous."""
    posts_ahead: bool
    """Whether a receive may be begun long before its tensor is due, while this process works on other things."""

    def send(self, tensor: torch.Tensor, number: int) -> Operation:
        """Begin to send to member ``number``."""

    def recv(self, tensor: torch.Tensor, number: int) -> Operation:
        """Begin to receive from member ``number``."""

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum over the members, in place. What this process runs on the tensor next comes after it."""

    def all_gather(self, parts: list[torch.Tensor], tensor: torch.Tensor) -> None:
        """Collect the members' tensors, all of one shape. What this process runs on them next comes after it."""

    def check(self) -> None:
        """Raises, if a member is known to be gone; what came out of the group since then is worth nothing."""

    def close(self) -> None:
        """Leave, without waiting; may be called twice. Members that wait for this one wake up once nothing here holds
        the group."""


class TorchWork(Protocol):
    """What torch's operations have; its own type hints leave the methods of groups out."""

    def wait(self, timeout: timedelta = ...) -> object:
        """Until it is done, or for NCCL: make the current stream wait for it."""


class TorchGroup(Protocol):
    """What we use of torch.distributed's groups."""

    def send(self, tensors: list[torch.Tensor], number: int, tag: int) -> TorchWork:
        """Begin to send one tensor."""

    def recv(self, tensors: list[torch.Tensor], number: int, tag: int) -> TorchWork:
        """Begin to receive one tensor."""

    def allreduce(self, tensors: list[torch.Tensor]) -> TorchWork:
        """Begin to sum one tensor."""

    def allgather(self, outputs: list[list[torch.Tensor]], tensors: list[torch.Tensor]) -> TorchWork:
        """Begin to collect one tensor of each member."""

    def abort(self) -> None:
        """End what is going on."""


class GlooGroup:
    """Moves host memory.

    Gloo, as tried: a peer that is killed makes an operation raise at once, one that is stopped does not, ``abort``
    wakes nobody, and a wait that times out closes the pair for good.
    """

    memory = torch.device("cpu")
    # When the receive is posted before, a sender's bytes leave within its call: no other thread has to be woken first.
    posts_ahead = True

    def __init__(self, group: TorchGroup) -> None:
        self._group = group

    def send(self, tensor: torch.Tensor, number: int) -> Operation:
        """See :class:`Group`."""
        return self._group.send([tensor], number, TAG)

    def recv(self, tensor: torch.Tensor, number: int) -> Operation:
        """See :class:`Group`."""
        return self._group.recv([tensor], number, TAG)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """See :class:`Group`. Waits for it."""
        self._group.allreduce([tensor]).wait()

    def all_gather(self, parts: list[torch.Tensor], tensor: torch.Tensor) -> None:
        """See :class:`Group`. Waits for it."""
        self._group.allgather([parts], [tensor]).wait()

    def check(self) -> None:
        """See :class:`Group`. Nothing to do: an operation that a member has left raises itself."""

    def close(self) -> None:
        """See :class:`Group`. Connections close when the last one who holds the group lets it go."""
