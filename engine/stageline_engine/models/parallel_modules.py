"""Modules that join the tensor-parallel ranks of a stage; they stand where the plan's styles ask for it.

Dimensions: [1, T, I] and [1, T, O] with T rows, I input and O output features of the whole module.
"""

from __future__ import annotations

import torch
from torch import nn

from stageline_engine.models.tensor_group import TensorGroup
from stageline_engine.models.tensor_parallel import (
    COLWISE_GATHER,
    ROWWISE,
    ROWWISE_SPLIT,
    SUMMED_EXPERTS,
    TensorPlan,
    part,
)


class SummedLinear(nn.Module):
    """A rowwise linear: sums the ranks' products, then adds the bias once.

    ``features`` is the part of the input that this rank takes; None: the input is that part already.
    """

    def __init__(self, linear: nn.Linear, group: TensorGroup, features: tuple[int, int] | None) -> None:
        super().__init__()
        self.bias = linear.bias
        linear.register_parameter("bias", None)
        self.linear = linear
        self._group = group
        self._features = features

    def forward(self, input_1TI: torch.Tensor) -> torch.Tensor:
        """Whole output [1, T, O] from the whole or this rank's input."""
        if self._features is not None:
            start, end = self._features
            input_1TI = input_1TI[..., start:end]
        output_1TO = self._group.all_reduce(self.linear(input_1TI))
        return output_1TO if self.bias is None else output_1TO + self.bias


class GatheredLinear(nn.Module):
    """A colwise linear whose output is made whole again; ranks hold equal parts, the last ones padded."""

    def __init__(self, linear: nn.Linear, group: TensorGroup, out_features: int) -> None:
        super().__init__()
        self.linear = linear
        self._group = group
        self._out_features = out_features

    def forward(self, input_1TI: torch.Tensor) -> torch.Tensor:
        """Whole output [1, T, O]."""
        return self._group.all_gather_last(self.linear(input_1TI))[..., : self._out_features]


class SummedExperts(nn.Module):
    """Experts of which each rank holds a part of every one: sums their outputs."""

    def __init__(self, experts: nn.Module, group: TensorGroup) -> None:
        super().__init__()
        self.experts = experts
        self._group = group

    def forward(self, *routed: torch.Tensor) -> torch.Tensor:
        """Whole output [T, O] of the experts' own arguments."""
        return self._group.all_reduce(self.experts(*routed))


def join_ranks(
    module: nn.Module, prefix: str, plan: TensorPlan, group: TensorGroup, widths: dict[str, tuple[int, int]]
) -> None:
    """Replace, inside ``module``, the modules whose results the ranks must join. Its weights are this rank's already.

    ``prefix`` is the module's full name; ``widths`` gives the whole (input, output) features of each linear.
    """
    for name, child in list(module.named_children()):
        full = f"{prefix}.{name}" if prefix else name
        style = plan.style(full)
        if style == ROWWISE and isinstance(child, nn.Linear):
            setattr(module, name, SummedLinear(child, group, None))
        elif style == ROWWISE_SPLIT and isinstance(child, nn.Linear):
            setattr(module, name, SummedLinear(child, group, part(widths[full][0], group.rank, group.size)))
        elif style == COLWISE_GATHER and isinstance(child, nn.Linear):
            setattr(module, name, GatheredLinear(child, group, widths[full][1]))
        elif style == SUMMED_EXPERTS:
            setattr(module, name, SummedExperts(child, group))
        else:
            join_ranks(child, full, plan, group, widths)
