"""Joins the tensor-parallel ranks of a stage: :class:`models.tensor_group.TensorGroup` over whatever joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from stageline_engine.comm.commands import LOOPBACK
from stageline_engine.comm.groups import Group
from stageline_engine.comm.rendezvous import GroupEnd
from stageline_engine.core.errors import LinkFailedError


class RankGroup:
    """A group whose members can be joined anew in each epoch, while the model that uses it keeps its weights.

    Every rank gets the same bits from :meth:`all_reduce`, so ranks that start equal stay equal.
    """

    def __init__(self, name: str, rank: int, size: int, own_address: str = LOOPBACK) -> None:
        self.rank = rank
        self.size = size
        self._name = name
        self._own_address = own_address
        self._end: GroupEnd | None = None
        self._group: Group | None = None

    def close(self) -> None:
        """Leave the group of this epoch, if any. Members that wait for this one wake up with LinkFailedError.

        They have to: survivors of a death may stand at different plans, and one of them within an operation.
        """
        if self._end is not None:
            self._end.close()
        self._end = None
        self._group = None

    def open(self, epoch: int, device: torch.device, notify: Callable[[], None]) -> bytes:
        """Returns what the other members need; ``notify`` as in :class:`GroupEnd`."""
        self._end = GroupEnd(
            self._name, epoch, self.rank, self.size, device, notify, one_way=False, own_address=self._own_address
        )
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

    def check(self) -> None:
        """Raises LinkFailedError if a member is known to be gone: results that are not passed on yet may be wrong.

        A GPU's operations are only begun by the two methods below, so it is not they who can tell.
        """
        self._run(lambda group: group.check())

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :class:`TensorGroup`. Raises LinkFailedError when a member is gone."""
        moved = self._bring(tensor)
        self._run(lambda group: group.all_reduce(moved))
        return moved.to(tensor.device)

    def all_gather_last(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :class:`TensorGroup`. Raises LinkFailedError when a member is gone."""
        moved = self._bring(tensor)
        parts = [torch.empty_like(moved) for _ in range(self.size)]
        self._run(lambda group: group.all_gather(parts, moved))
        return torch.cat(parts, dim=-1).to(tensor.device)

    def _bring(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._joined().memory).contiguous()

    def _joined(self) -> Group:
        assert self._group is not None, "the group is not connected in this epoch"
        return self._group

    def _run(self, operation: Callable[[Group], None]) -> None:
        try:
            operation(self._joined())
        except RuntimeError as error:
            raise LinkFailedError(f"{self._name}: {error}") from error
