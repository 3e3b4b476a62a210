"""How much memory a rank may still take for its KV cache."""

from __future__ import annotations

import torch

from stageline_engine.planning.machine import free_machine_bytes


def free_bytes(device: torch.device) -> int:
    """Memory free on ``device``: a GPU's own, or the machine's."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_machine_bytes()
