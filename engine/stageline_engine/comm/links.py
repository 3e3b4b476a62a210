"""Hidden states over a stage boundary: one tensor for each micro-batch, from one rank to one rank.

The rank's thread never waits in here: a link tells by ``notify`` that something has changed, and the rank looks.
A peer's death may be noticed only by who waits, and a wait that times out may close the pair for good. So a receive is
posted only once its plan is known (and over NCCL, once it is asked for), the waiting is done in a thread for each link,
and at an epoch change thread, pair and buffers are abandoned, never used again.

T rows of a micro-batch, H hidden size.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

import torch

from stageline_engine.comm.groups import Group, Operation
from stageline_engine.core.errors import LinkFailedError

MAX_UNSENT = 2
"""Tensors that may wait for the next stage; one is on its way, one more lets this stage go on."""
_SENDER, _RECEIVER = 0, 1


class SendLink(Protocol):
    """The sender's end of a link."""

    @property
    def is_full(self) -> bool:
        """Whether MAX_UNSENT tensors wait; send nothing then. Raises LinkFailedError when the peer is gone."""

    def send(self, hidden_TH: torch.Tensor) -> None:
        """Begin to send, without waiting. The tensor must not be changed afterwards.

        Raises LinkFailedError when the peer is gone.
        """

    def close(self) -> None:
        """Abandon the link; what was not taken is lost."""


class RecvLink(Protocol):
    """The receiver's end of a link."""

    def expect(self, num_rows: int) -> None:
        """The next tensor will have so many rows; call it in the order in which they are sent. Does not wait.

        Raises LinkFailedError when the peer is gone.
        """

    def take(self) -> torch.Tensor | None:
        """The next tensor, in order, or None when it has not arrived. Raises LinkFailedError when the peer is gone."""

    def close(self) -> None:
        """Abandon the link."""


class _Waiter:
    """A thread that waits for the operations of one pair in their order, and notes their outcome.

    It holds the pair and the tensors as long as it waits, so that an abandoned link stays whole behind its back.
    """

    def __init__(self, name: str, pair: Group, notify: Callable[[], None]) -> None:
        self._pair = pair
        self._notify = notify
        self._begun: SimpleQueue[tuple[Operation, torch.Tensor] | None] = SimpleQueue()
        self.ended: deque[torch.Tensor] = deque()
        self._error: LinkFailedError | None = None
        self._name = name
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def begin(self, operation: Callable[[], Operation], tensor: torch.Tensor) -> None:
        """Begin an operation here and now, and have its end waited for.

        Raises:
            LinkFailedError: the peer is gone.
        """
        self.check()
        try:
            self._begun.put((operation(), tensor))
        except RuntimeError as error:
            raise LinkFailedError(f"{self._name}: {error}") from error

    def check(self) -> None:
        """Raise what went wrong, if anything."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread once it has nothing to wait for; it may never have."""
        self._begun.put(None)

    def _run(self) -> None:
        while (item := self._begun.get()) is not None:
            operation, tensor = item
            try:
                operation.wait()
            except RuntimeError as error:
                self._error = LinkFailedError(f"{self._name}: {error}")
                self._notify()
                return
            self.ended.append(tensor)
            self._notify()


class PairSendLink:
    """Sends over a pair in which this process is number 0."""

    def __init__(self, name: str, pair: Group, notify: Callable[[], None]) -> None:
        self._pair = pair
        self._waiter = _Waiter(name, pair, notify)
        self._num_unsent = 0

    @property
    def is_full(self) -> bool:
        """See :class:`SendLink`."""
        self._waiter.check()
        while self._waiter.ended:
            self._waiter.ended.popleft()
            self._num_unsent -= 1
        return self._num_unsent >= MAX_UNSENT

    def send(self, hidden_TH: torch.Tensor) -> None:
        """See :class:`SendLink`."""
        moved_TH = hidden_TH.detach().to(self._pair.memory).contiguous()
        self._waiter.begin(lambda: self._pair.send(moved_TH, _RECEIVER), moved_TH)
        self._num_unsent += 1

    def close(self) -> None:
        """See :class:`SendLink`. The pair is closed by who made it."""
        self._waiter.close()


class PairRecvLink:
    """Receives over a pair in which this process is number 1.

    Args:
        hidden_size, dtype: of the tensors; they have to be the sender's.
        device: where :meth:`take` puts them.
    """

    def __init__(
        self,
        name: str,
        pair: Group,
        notify: Callable[[], None],
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._pair = pair
        self._waiter = _Waiter(name, pair, notify)
        self._hidden_size, self._dtype, self._device = hidden_size, dtype, device
        self._expected: deque[int] = deque()
        self._num_posted = 0

    def expect(self, num_rows: int) -> None:
        """See :class:`RecvLink`."""
        self._expected.append(num_rows)
        if self._pair.posts_ahead:
            self._post()

    def take(self) -> torch.Tensor | None:
        """See :class:`RecvLink`."""
        if self._waiter.ended:
            self._num_posted -= 1
            return self._waiter.ended.popleft().to(self._device)
        self._waiter.check()
        if self._expected and not self._num_posted:
            self._post()
        return None

    def close(self) -> None:
        """See :class:`RecvLink`. The pair is closed by who made it."""
        self._waiter.close()

    def _post(self) -> None:
        shape = self._expected.popleft(), self._hidden_size
        buffer_TH = torch.empty(shape, dtype=self._dtype, device=self._pair.memory)
        self._waiter.begin(lambda: self._pair.recv(buffer_TH, _SENDER), buffer_TH)
        self._num_posted += 1
