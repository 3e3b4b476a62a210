"""Linear layers whose weights are packed once for the CPU's matrix kernels, instead of at every call.

oneDNN lays a weight out in the blocks that its kernel reads. torch's own float32 linear does that again for each call,
which at decode's few rows costs as much as the product.
"""

from __future__ import annotations

import torch
from torch import nn

PACKED_ROWS = 32
"""Rows that the layout is chosen for: a usual decode batch. Other numbers of rows are right too."""


class PackedLinear(nn.Module):
    """Stands for an ``nn.Linear`` on a CPU; holds the packed weight alone, so that it is in memory once."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        weight_OI = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, PACKED_ROWS)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The last dimension times the weight's transpose, plus the bias."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return product

    def extra_repr(self) -> str:
        """As nn.Linear's."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def pack_linears(module: nn.Module) -> int:
    """Replace the CPU linears inside ``module`` by packed ones, in place; returns how many.

    Their weight must be float32, or bfloat16 where the CPU multiplies that natively. The unpacked weights are freed,
    unless somebody else holds them (a tied embedding). Nothing changes on other devices, for other dtypes, or where
    torch was built without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    return _pack(module, _packed_dtypes())


def _packed_dtypes() -> set[torch.dtype]:
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return {torch.float32, torch.bfloat16} if has_bfloat16 else {torch.float32}


def _pack(module: nn.Module, dtypes: set[torch.dtype]) -> int:
    replaced = 0
    for name, child in list(module.named_children()):
        if type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype in dtypes:
            setattr(module, name, PackedLinear(child))
            replaced += 1
        else:
            replaced += _pack(child, dtypes)
    return replaced
