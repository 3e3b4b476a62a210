"""Linear layers whose weights are packed once for the CPU's matrix kernels, instead of at every call.

oneDNN lays a weight out in the blocks that its kernel reads. torch's own float32 linear does that again for each call,
which at decode's few rows costs as much as the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import nn

PACKED_ROWS = 32
"""Rows that the layout is chosen for: a usual decode batch. Other numbers of rows are right too."""


SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of linears that a module gives the same input; one product where all of them are there. Each product has
a cost of its own, and narrow ones (few KV heads) leave threads idle."""


class PackedLinear(nn.Module):
    """Stands for one or several ``nn.Linear`` on a CPU; holds the packed weight alone, so that it is in memory once.

    Several have the same input features; their outputs stand beside each other.
    """

    def __init__(self, *linears: nn.Linear) -> None:
        super().__init__()
        self.in_features = linears[0].in_features
        self.out_features = sum(linear.out_features for linear in linears)
        self.bias = _joined_bias(linears)
        weights = [linear.weight.detach() for linear in linears]
        weight_OI = weights[0] if len(weights) == 1 else torch.cat(weights)
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI, PACKED_ROWS)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The last dimension times the weight's transpose, plus the bias."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return product

    def extra_repr(self) -> str:
        """As nn.Linear's."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Joined(nn.Module):
    """One product for sibling linears: the first that is asked for an input computes all, the others take theirs.

    Holds an input until all have taken their part of it, which the families' attention and MLP always do.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self._product = PackedLinear(*linears)
        self._widths = [linear.out_features for linear in linears]
        self._input: torch.Tensor | None = None
        self._parts: dict[int, torch.Tensor] = {}

    def part(self, index: int, rows: torch.Tensor) -> torch.Tensor:
        if self._input is not rows or index not in self._parts:
            self._input = rows
            self._parts = dict(enumerate(self._product(rows).split(self._widths, -1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._input = None
        return part


class JoinedLinear(nn.Module):
    """Stands for one of several sibling linears whose products are computed together."""

    def __init__(self, joined: _Joined, index: int, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._joined = joined
        self._index = index

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """This linear's output; a view of all siblings'."""
        return self._joined.part(self._index, rows)

    def extra_repr(self) -> str:
        """As nn.Linear's."""
        return f"in_features={self.in_features}, out_features={self.out_features}, part {self._index}"


def _joined_bias(linears: Sequence[nn.Linear]) -> nn.Parameter | None:
    if len(linears) == 1:
        return linears[0].bias
    if all(linear.bias is None for linear in linears):
        return None
    zeros = (linear.weight.new_zeros(linear.out_features) for linear in linears)
    biases = [z if linear.bias is None else linear.bias.detach() for z, linear in zip(zeros, linears, strict=True)]
    return nn.Parameter(torch.cat(biases), requires_grad=False)


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
    for names in SIBLINGS:
        siblings = [getattr(module, name, None) for name in names]
        linears = [child for child in siblings if _is_packable(child, dtypes)]
        if len(linears) == len(names) and len({(linear.in_features, linear.weight.dtype) for linear in linears}) == 1:
            joined = _Joined(linears)
            for index, (name, linear) in enumerate(zip(names, linears, strict=True)):
                setattr(module, name, JoinedLinear(joined, index, linear))
            replaced += len(names)
    for name, child in list(module.named_children()):
        if _is_packable(child, dtypes):
            setattr(module, name, PackedLinear(child))
            replaced += 1
        else:
            replaced += _pack(child, dtypes)
    return replaced


def _is_packable(child: object, dtypes: set[torch.dtype]) -> TypeGuard[nn.Linear]:
    return type(child) is nn.Linear and child.weight.device.type == "cpu" and child.weight.dtype in dtypes
