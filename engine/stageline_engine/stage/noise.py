"""Random numbers without state: each is a function of a sequence's seed and choice, a position, and an index.

So a token does not depend on what else was in its batch, on how often a step was replayed, or on who ran it.
The hash is SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), read at any place of
its stream: number i of stream k is mix(k + (i + 1) · γ). Integers of torch wrap around, as it needs.

Dimensions: R rows, I indices.
"""

from __future__ import annotations

import torch


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def stream_keys(seeds_R: torch.Tensor, choices_R: torch.Tensor, positions_R: torch.Tensor) -> torch.Tensor:
    """One stream for each (seed, choice, position): int64 [R]; all int64, any value."""
    keys_R = _mix(seeds_R + _GAMMA)
    keys_R = _mix((keys_R ^ choices_R) + _GAMMA)
    return _mix((keys_R ^ positions_R) + _GAMMA)


def gumbel(keys_R: torch.Tensor, indices_RI: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float64 [R, I], of each row's stream at the given int64 indices ([R, I] or [I])."""
    bits_RI = _mix(keys_R.unsqueeze(-1) + (indices_RI + 1) * _GAMMA)
    # 52 bits and a half: neither 0 nor 1, both of which would give an infinite value.
    uniform_RI = (_shifted(bits_RI, 12).double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform_RI))


def _mix(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, count: int) -> torch.Tensor:
    """Shift to the right, filling with zeros (torch's own shift of int64 keeps the sign)."""
    return (bits >> count) & ((1 << (64 - count)) - 1)
