"""Joins the tensor-parallel ranks of a stage: :class:`models.tensor_group.TensorGroup` over gloo."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from stageline_engine.comm.rendezvous import GlooEnd, Group, Operation
from stageline_engine.core.errors import LinkFailedError


class GlooGroup:
    """A group whose members can be joined anew in each epoch, while the model that uses it keeps its weights.

    Every rank gets the same bits from :meth:`all_reduce`, so ranks that start equal stay equal. Tensors of other
    devices go through host memory.
    """

    def __init__(self, name: str, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._name = name
        self._end: GlooEnd | None = None
        self._group: Group | None = None

    def close(self) -> None:
        """Leave the group of this epoch, if any. Members that wait for this one wake up with LinkFailedError.

        They have to: survivors of a death may stand at different plans, and one of them within an operation.
        """
        self._group = None
        self._end = None

    def open(self, epoch: int, notify: Callable[[], None]) -> bytes:
        """Returns what the other members need; ``notify`` as in :class:`GlooEnd`."""
        self._end = GlooEnd(self._name, epoch, self.rank, self.size, notify)
        return self._end.value()

    def supply(self, values: Mapping[int, bytes]) -> None:
        """Take what the members returned from :meth:`open`. Does not wait."""
        assert self._end is not None, "open() comes before supply()"
        self._end.supply(values)

    @property
    def is_settled(self) -> bool:
        """Whether :meth:`join` would not wait."""
        return self._end is not None and self._end.is_settled

    def join(self) -> None:
        """Wait until all members are connected.

        Raises:
            LinkFailedError: a member cannot be reached.
        """
        assert self._end is not None, "open() comes before join()"
        self._group = self._end.join()
        self._end = None

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :class:`TensorGroup`. Raises LinkFailedError when a member is gone."""
        on_host = tensor.cpu().contiguous()
        self._run(lambda group: group.allreduce([on_host]))
        return on_host.to(tensor.device)

    def all_gather_last(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :class:`TensorGroup`. Raises LinkFailedError when a member is gone."""
        on_host = tensor.cpu().contiguous()
        parts = [torch.empty_like(on_host) for _ in range(self.size)]
        self._run(lambda group: group.allgather([parts], [on_host]))
        return torch.cat(parts, dim=-1).to(tensor.device)

    def _run(self, operation: Callable[[Group], Operation]) -> None:
        assert self._group is not None, "the group is not connected in this epoch"
        try:
            operation(self._group).wait()
        except RuntimeError as error:
            raise LinkFailedError(f"{self._name}: {error}") from error
