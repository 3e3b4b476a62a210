"""Notices when another member of a group dies or leaves, for transports that do not.

NCCL between GPUs of one machine is memory that both map: a kernel that waits for a dead peer waits for ever. So a gloo
group beside it keeps a receive posted that is only ever answered by a farewell, or by the end of the connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch

from stageline_engine.comm.groups import TorchGroup

_TAG = 2
_FOREVER = timedelta(days=365)
"""A lifeline is silent as long as all is well, so no time is too long for it."""


class Lifeline:
    """Watches the other members, in a thread for each.

    Args:
        group: gloo.
        number: of this member, below ``size``.
        on_lost: called from those threads with what happened; once for each member, in any order.
    """

    def __init__(self, name: str, group: TorchGroup, number: int, size: int, on_lost: Callable[[str], None]) -> None:
        self._name = name
        self._group = group
        self._others = [other for other in range(size) if other != number]
        self._on_lost = on_lost
        for other in self._others:
            self._start(lambda other=other: self._watch(other))  # type: ignore[misc]

    def close(self) -> None:
        """Tell the others that this member leaves. Does not wait. Once."""
        self._start(self._say_farewell)

    def _start(self, act: Callable[[], None]) -> None:
        # Daemons: a member that is stopped answers neither way.
        threading.Thread(target=act, name=f"lifeline {self._name}", daemon=True).start()

    def _watch(self, other: int) -> None:
        farewell = torch.empty(1, dtype=torch.uint8)
        try:
            self._group.recv([farewell], other, _TAG).wait(_FOREVER)
            reason = f"member {other} has left"
        except RuntimeError as error:
            reason = f"member {other} is gone: {error}"
        self._on_lost(reason)

    def _say_farewell(self) -> None:
        farewell = torch.zeros(1, dtype=torch.uint8)
        begun = []
        for other in self._others:
            # A member that is gone needs none.
            with suppress(RuntimeError):
                begun.append(self._group.send([farewell], other, _TAG))
        for operation in begun:
            with suppress(RuntimeError):
                operation.wait()
