"""RMS norms in three passes over the rows instead of transformers' seven.

A decode step of few rows spends as long on starting operations as on arithmetic: at 32 rows of 576 on two AVX2 cores a
norm takes 19 instead of 55 microseconds, 2 to 3 % of a step of the demo model.
"""

from __future__ import annotations

import torch
from torch import nn

_TOLERANCE = 1e-5
"""Largest relative difference at which two norms count as the same."""


class FusedRMSNorm(nn.Module):
    """Rows of the last dimension, divided by their root mean square, times ``scale_H``. float32."""

    def __init__(self, scale_H: torch.Tensor, eps: float) -> None:
        super().__init__()
        size = len(scale_H)
        # x / sqrt(mean(x²) + eps) = x · sqrt(size) / sqrt(sum(x²) + size · eps)
        self._scale_H = nn.Parameter(scale_H * size**0.5, requires_grad=False)
        self._eps = eps * size

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Normed rows, of the same shape."""
        inverse = torch.linalg.vecdot(rows, rows).add_(self._eps).rsqrt_().unsqueeze(-1)
        normed: torch.Tensor = (rows * inverse).mul_(self._scale_H)
        return normed


@torch.no_grad()
def fuse_norms(module: nn.Module) -> int:
    """Replace the RMS norms of a float32 CPU model by fused ones, in place; returns how many.

    Families scale differently (Gemma by 1 + weight), so the scale is what the norm itself makes of ones; and one that
    then answers differently from its fused form stays.
    """
    replaced = 0
    for name, child in list(module.named_children()):
        fused = _fused(child)
        if fused is None:
            replaced += fuse_norms(child)
        else:
            setattr(module, name, fused)
            replaced += 1
    return replaced


def _fused(norm: nn.Module) -> FusedRMSNorm | None:
    weight = getattr(norm, "weight", None)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not type(norm).__name__.endswith("RMSNorm") or not isinstance(weight, torch.Tensor) or eps is None:
        return None
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or weight.ndim != 1:
        return None
    fused = FusedRMSNorm(norm(torch.ones_like(weight)) * (1.0 + eps) ** 0.5, eps)
    probe = torch.linspace(-1.5, 1.0, 3 * len(weight)).view(1, 3, -1)
    return fused if torch.allclose(fused(probe), norm(probe), rtol=_TOLERANCE, atol=_TOLERANCE) else None
