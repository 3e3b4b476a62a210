"""Everything that joins a rank to other ranks within one epoch; opened, connected, and abandoned as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from stageline_engine.comm.commands import RankId
from stageline_engine.comm.curve import KeyedContext
from stageline_engine.comm.feedback import FeedbackReceiver, FeedbackSender
from stageline_engine.comm.links import PairRecvLink, PairSendLink, RecvLink, SendLink
from stageline_engine.comm.rendezvous import GroupEnd
from stageline_engine.comm.tensor_group import RankGroup
from stageline_engine.comm.wiring import boundary_wires, sends_feedback, takes_feedback, tensor_wires


class Joints:
    """The ends that ``member`` holds in ``epoch``.

    Args:
        group: joins the ranks of the own stage; None for a stage of one rank.
        device: where this rank's tensors lie.
        notify: called from other threads when a link has news.
        own_address: of this machine, where everything that other ranks connect to is bound.
    """

    def __init__(
        self,
        member: RankId,
        tp_of_stages: Sequence[int],
        epoch: int,
        context: KeyedContext,
        group: RankGroup | None,
        device: torch.device,
        notify: Callable[[], None],
        own_address: str,
    ) -> None:
        self._member = member
        self._notify = notify
        self._context = context
        self._group = group
        self._device = device
        self._boundaries = [wire for wire in boundary_wires(tp_of_stages) if member in wire.members]
        self._ends = {
            wire.name: GroupEnd(
                wire.name,
                epoch,
                wire.number_of(member),
                len(wire.members),
                device,
                notify,
                one_way=True,
                own_address=own_address,
            )
            for wire in self._boundaries
        }
        self.values = {name: end.value() for name, end in self._ends.items()}
        """What the other members need, by link name."""
        if group is not None:
            (wire,) = [wire for wire in tensor_wires(tp_of_stages) if member in wire.members]
            self._tensor_name = wire.name
            self.values[wire.name] = group.open(epoch, device, notify)
        self.feedback = FeedbackReceiver(context, own_address) if takes_feedback(member, tp_of_stages) else None
        self.makes_results = sends_feedback(member, tp_of_stages)
        self.upstream: RecvLink | None = None
        self.downstream: list[SendLink] = []
        self.num_receivers = tp_of_stages[member[0] + 1] if member[0] + 1 < len(tp_of_stages) else 0
        """Ranks of the next stage: each gets the hidden states once, from this rank or another of its stage."""
        self._results: FeedbackSender | None = None

    def supply(self, ends: Mapping[str, Mapping[int, bytes]]) -> None:
        """Take the other members' values; connecting begins, and ``notify`` is called when something has come of it."""
        for wire in self._boundaries:
            self._ends[wire.name].supply(ends[wire.name])
        if self._group is not None:
            self._group.supply(ends[self._tensor_name])

    def is_settled(self) -> bool:
        """Whether :meth:`join` would not wait for a link."""
        ends_settled = all(end.is_settled for end in self._ends.values())
        return ends_settled and (self._group is None or self._group.is_settled)

    def join(self, feedback: Sequence[str], hidden_size: int, dtype: torch.dtype) -> None:
        """Wait until everything is connected.

        Args:
            feedback: addresses that step results go to; empty unless this rank makes them.
            hidden_size, dtype: of the tensors that cross the boundary before this stage.

        Raises:
            LinkFailedError: another member cannot be reached.
        """
        for wire in self._boundaries:
            pair = self._ends[wire.name].join()
            if wire.number_of(self._member) == 0:
                self.downstream.append(PairSendLink(wire.name, pair, self._notify))
            else:
                self.upstream = PairRecvLink(wire.name, pair, self._notify, hidden_size, dtype, self._device)
        if self._group is not None:
            self._group.join()
        if self.makes_results:
            self._results = FeedbackSender(self._context, feedback)

    @property
    def results(self) -> FeedbackSender:
        """Takes step results to stage 0; only where they are made, and once connected."""
        assert self._results is not None
        return self._results

    def check(self) -> None:
        """Raises LinkFailedError if a rank of the own stage is known to be gone: what was computed may be wrong."""
        if self._group is not None:
            self._group.check()

    def close(self) -> None:
        """Abandon everything; nothing of it is used again, and nothing is waited for."""
        if self._group is not None:
            self._group.close()
        for link in self.downstream:
            link.close()
        if self.upstream is not None:
            self.upstream.close()
        for end in self._ends.values():
            end.close()
        if self.feedback is not None:
            self.feedback.close()
        if self._results is not None:
            self._results.close()
