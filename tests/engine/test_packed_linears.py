"""Packed linears give what torch's own linears give."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from stageline_engine.models.linear import JoinedLinear, PackedLinear, pack_linears


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


class _Attention(nn.Module):
    """As the models' own: three linears of one input, of which some have a bias."""

    def __init__(self, biases: tuple[bool, bool, bool]) -> None:
        super().__init__()
        self.q_proj = nn.Linear(48, 64, bias=biases[0])
        self.k_proj = nn.Linear(48, 16, bias=biases[1])
        self.v_proj = nn.Linear(48, 24, bias=biases[2])

    def forward(self, rows: torch.Tensor) -> list[torch.Tensor]:
        return [self.q_proj(rows), self.k_proj(rows), self.v_proj(rows)]


@pytest.mark.parametrize("biases", [(False, False, False), (True, True, True), (True, False, True)])
def test_linears_of_one_input_are_joined_and_give_the_same(biases: tuple[bool, bool, bool]) -> None:
    torch.manual_seed(0)
    attention = _Attention(biases)
    inputs = [torch.randn(1, rows, 48) for rows in (1, 7)]
    with torch.no_grad():
        expected = [attention(rows) for rows in inputs]
        assert pack_linears(attention) == 3
        assert isinstance(attention.k_proj, JoinedLinear)
        for rows, products in zip(inputs, expected, strict=True):
            torch.testing.assert_close(attention(rows), products)


def test_joined_linears_need_not_be_asked_in_order_nor_all_of_them() -> None:
    torch.manual_seed(0)
    attention = _Attention((True, False, True))
    one, two = torch.randn(1, 5, 48), torch.randn(1, 5, 48)
    with torch.no_grad():
        query_one, _, value_one = attention(one)
        _, key_two, value_two = attention(two)
        pack_linears(attention)
        torch.testing.assert_close(attention.v_proj(one), value_one)
        torch.testing.assert_close(attention.v_proj(two), value_two)
        torch.testing.assert_close(attention.q_proj(one), query_one)
        torch.testing.assert_close(attention.v_proj(two), value_two)
        torch.testing.assert_close(attention.v_proj(two), value_two)
        torch.testing.assert_close(attention.k_proj(two), key_two)


def test_linears_of_different_inputs_are_not_joined() -> None:
    block = nn.Module()
    block.gate_proj, block.up_proj = nn.Linear(48, 8), nn.Linear(40, 8)
    assert pack_linears(block) == 2
    assert isinstance(block.gate_proj, PackedLinear)
