"""Packed linears give what torch's own linears give."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from stageline_engine.models.linear import PackedLinear, pack_linears


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(5, 7)
        self.inner = nn.ModuleList([nn.Linear(5, 3, bias=False), nn.ReLU()])


@pytest.mark.parametrize("rows", [1, 2, 33, 256])
@pytest.mark.parametrize("bias", [True, False])
def test_equal_to_the_linear_for_any_number_of_rows(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 91, bias=bias)
    inputs = torch.randn(1, rows, 48)
    with torch.no_grad():
        expected = linear(inputs)
        holder = nn.Sequential(linear)
        assert pack_linears(holder) == 1
        assert isinstance(holder[0], PackedLinear)
        torch.testing.assert_close(holder(inputs), expected)
        # A view with strides, as a slice of rows is.
        torch.testing.assert_close(holder(inputs[:, ::2]), expected[:, ::2])


def test_every_linear_inside_is_replaced_and_its_weight_freed() -> None:
    block = _Block()
    weight = weakref.ref(block.proj.weight)
    assert pack_linears(block) == 2
    assert not any(isinstance(module, nn.Linear) for module in block.modules())
    assert weight() is None


def test_bfloat16_is_packed_or_left_but_gives_the_same() -> None:
    torch.manual_seed(0)
    holder = nn.Sequential(nn.Linear(48, 91)).to(torch.bfloat16)
    inputs = torch.randn(1, 9, 48, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = holder(inputs)
        pack_linears(holder)
        torch.testing.assert_close(holder(inputs), expected)


def test_other_dtypes_stay_as_they_are() -> None:
    block = _Block().to(torch.float64)
    assert pack_linears(block) == 0
    assert isinstance(block.proj, nn.Linear)
