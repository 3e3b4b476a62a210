"""Waiting for what a link tells, as a rank does."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from stageline_engine.comm.links import PairRecvLink

PATIENCE = 30.0
"""Seconds; a test that waits so long has found a hang."""


class News:
    """Counts what links tell, and waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), "nothing happened"


def take(link: PairRecvLink, news: News) -> torch.Tensor:
    taken: list[torch.Tensor] = []

    def is_there() -> bool:
        hidden_TH = link.take()
        if hidden_TH is not None:
            taken.append(hidden_TH)
        return hidden_TH is not None

    news.wait_for(is_there)
    return taken[0]
