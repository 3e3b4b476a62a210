"""The seam between a stage's model and whatever joins its tensor-parallel ranks."""

from __future__ import annotations

from typing import Protocol

import torch


class TensorGroup(Protocol):
    """The tensor-parallel ranks of one stage. Every rank makes the same calls in the same order.

    Implementations: :mod:`stageline_engine.comm` (processes, joined by gloo or NCCL) and the inline executor (threads
    of one process).
    """

    rank: int
    size: int

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks; may change ``tensor`` in place, and returns the sum. Size 1 returns it untouched."""

    def all_gather_last(self, tensor: torch.Tensor) -> torch.Tensor:
        """Concatenate the ranks' tensors along the last dimension, in rank order. All have the same shape."""


class SoloGroup:
    """A stage of one rank."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor``."""
        return tensor

    def all_gather_last(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return ``tensor``."""
        return tensor
