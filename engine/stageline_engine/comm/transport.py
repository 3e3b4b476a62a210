"""How the members of a group move tensors: NCCL between GPUs, gloo through host memory everywhere else.

Every member tells the others its place, so all come to the same answer without asking. The part that looks at a GPU
has not run on one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

HOST = "host"
"""The place of a member whose tensors NCCL cannot take."""


def place_of(device: torch.device) -> str:
    """Where a member's tensors lie: HOST, or a GPU's own identity, which no other GPU anywhere has."""
    if device.type != "cuda" or not torch.distributed.is_nccl_available():
        return HOST
    return str(torch.cuda.get_device_properties(device).uuid)


def can_use_nccl(places: Sequence[str]) -> bool:
    """Whether members at these places are joined by NCCL: it takes GPUs only, and never one GPU twice."""
    return HOST not in places and len(set(places)) == len(places)
