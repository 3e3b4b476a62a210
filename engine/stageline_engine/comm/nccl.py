"""Groups whose tensors go from GPU to GPU by NCCL. Not run on a GPU yet: `make gpu-check` is the check.

Written from torch 2.15's ProcessGroupNCCL and NCCL 2.30:

- A communicator is made within the first operation, which waits for the other members; so joining ends with an
  operation that carries nothing, in the thread that joins.
- A work's ``wait`` only makes a stream wait. The end of an operation is a CUDA event after it.
- A kernel that waits for its peer stalls calls that wait for the whole device (freeing memory, the first use of a
  kernel), and the peer may be waiting for what this process would run next. So a receive is posted only when this
  process has nothing else to run (:attr:`NcclGroup.posts_ahead`).
- A dead peer is not noticed: see :mod:`stageline_engine.comm.lifeline`. ``abort`` ends waiting kernels, whose results
  are worth nothing then; so the loss is noted first, and whoever waited looks for it (:meth:`NcclGroup.check`).

Not done: CUDA graphs, limits for the number of thread blocks that a transfer takes, registered buffers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import cast

import torch
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.distributed_c10d import GroupName

from stageline_engine.comm.group_store import GroupStore
from stageline_engine.comm.groups import BACKSTOP, TAG, Operation, TorchGroup, TorchWork
from stageline_engine.comm.lifeline import Lifeline

_ENVIRONMENT = {
    # What torch can only be told so, by version 2.15. Its watchdog ends no process of ours: ours ends an epoch.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    "TORCH_NCCL_BLOCKING_WAIT": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    # NCCL itself: where it listens while it joins. All ranks are processes of this machine.
    "NCCL_SOCKET_IFNAME": "=lo",
}


def prepare_process() -> None:
    """Set what NCCL and torch read from the environment. Call it before the process has threads."""
    os.environ.update(_ENVIRONMENT)


class NcclGroup:
    """See :class:`stageline_engine.comm.groups.Group`.

    Args:
        host: the same members joined by gloo.
        number: of this member, below ``size``.
        one_way: tensors go from member 0 to member 1 only; else all members reduce and gather together.

    Joins the members, so it waits for them. Raises RuntimeError when one is gone.
    """

    posts_ahead = False

    def __init__(
        self, name: str, host: TorchGroup, number: int, size: int, device: torch.device, one_way: bool
    ) -> None:
        assert os.environ.items() >= _ENVIRONMENT.items(), "prepare_process() comes first"
        self.memory = device
        self._name = name
        self._lost = ""
        self._has_left = False
        self._losing = threading.Lock()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._store = GroupStore(host, number, size)
        options = torch.distributed.ProcessGroupNCCL.Options()
        options._timeout = BACKSTOP
        options.group_name = GroupName(name)
        self._group = cast(
            TorchGroup,
            torch.distributed.ProcessGroupNCCL(PrefixStore(name, self._store), number, size, options),
        )
        self._lifeline = Lifeline(name, host, number, size, self._lose)
        try:
            self._meet(number, one_way)
        except RuntimeError:
            # The others may still be waiting for this one.
            self.close()
            raise

    def send(self, tensor: torch.Tensor, number: int) -> Operation:
        """See :class:`Group`. Comes after what this thread's current stream has been given."""
        return self._begin(lambda: self._group.send([tensor], number, TAG))

    def recv(self, tensor: torch.Tensor, number: int) -> Operation:
        """See :class:`Group`. Comes after what this thread's current stream has been given."""
        return self._begin(lambda: self._group.recv([tensor], number, TAG))

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """See :class:`Group`. In the order of the current stream; waits for nothing."""
        self.check()
        self._group.allreduce([tensor]).wait()

    def all_gather(self, parts: list[torch.Tensor], tensor: torch.Tensor) -> None:
        """See :class:`Group`. In the order of the current stream; waits for nothing."""
        self.check()
        self._group.allgather([parts], [tensor]).wait()

    def check(self) -> None:
        """See :class:`Group`."""
        if self._lost:
            raise RuntimeError(self._lost)

    def close(self) -> None:
        """See :class:`Group`. May be called twice."""
        if not self._has_left:
            self._has_left = True
            self._lifeline.close()
            self._lose("this member has left")

    def _begin(self, begin: Callable[[], TorchWork]) -> Operation:
        self.check()
        # What the current stream still runs may write the tensor, or use its memory for something else.
        self._stream.wait_stream(torch.cuda.current_stream(self.memory))
        with torch.cuda.stream(self._stream):
            begin().wait()
            end = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            end.record(self._stream)
        return _NcclOperation(end, self)

    def _lose(self, reason: str) -> None:
        with self._losing:
            if self._lost:
                return
            self._lost = reason
        # Waits until the kernels have ended; a rank's thread must not.
        threading.Thread(target=self._group.abort, name=f"abort {self._name}", daemon=True).start()

    def _meet(self, number: int, one_way: bool) -> None:
        with torch.cuda.device(self.memory):
            nothing = torch.zeros(1, device=self.memory)
            if not one_way:
                self.all_reduce(nothing)
                torch.cuda.current_stream(self.memory).synchronize()
                self.check()
            elif number == 0:
                self.send(nothing, 1).wait()
            else:
                self.recv(nothing, 0).wait()


class _NcclOperation:
    """Waited for by one thread, which is not the one that began it."""

    def __init__(self, end: torch.cuda.Event, group: NcclGroup) -> None:
        self._end = end
        self._group = group

    def wait(self) -> None:
        """See :class:`Operation`."""
        with torch.cuda.device(self._group.memory):
            self._end.synchronize()
        self._group.check()
