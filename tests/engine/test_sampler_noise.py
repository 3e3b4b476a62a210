"""The noise of sampling: a hash that keeps its meaning, and a distribution that is right."""

from __future__ import annotations

import torch

from stageline_engine.stage import noise

MASK = (1 << 64) - 1


def _splitmix(state: int) -> int:
    """SplitMix64's output function, in unbounded integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def _key(seed: int, choice: int, position: int) -> int:
    gamma = 0x9E3779B97F4A7C15
    key = _splitmix((seed + gamma) & MASK)
    key = _splitmix(((key ^ (choice & MASK)) + gamma) & MASK)
    return _splitmix(((key ^ (position & MASK)) + gamma) & MASK)


def _tensor(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_streams_are_those_of_splitmix64() -> None:
    cases = [(0, 0, 0), (1, 0, 5), (2**63 - 1, 3, 10**6), (-(2**63), 127, 1), (-7, 1, 2)]
    keys = noise.stream_keys(*(torch.tensor(column, dtype=torch.int64) for column in zip(*cases, strict=True)))
    assert [key & MASK for key in keys.tolist()] == [_key(seed & MASK, choice, at) for seed, choice, at in cases]


def test_first_number_is_that_of_the_published_generator() -> None:
    # SplitMix64 seeded with 0 begins with 0xE220A8397B1DCDAF.
    uniform = ((0xE220A8397B1DCDAF >> 12) + 0.5) * 2.0**-52
    expected = -torch.log(-torch.log(torch.tensor(uniform, dtype=torch.float64)))
    torch.testing.assert_close(noise.gumbel(_tensor(0), _tensor(0))[0, 0], expected)


def _unmixed(output: int) -> int:
    """The state whose SplitMix64 output this is."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        state = output
        for _ in range(3):
            state = output ^ (state >> shift)
        output = state * pow(factor, -1, 1 << 64) & MASK
    return output


def test_no_bits_give_an_infinite_value() -> None:
    for bits, least, most in ((0, -3.7, -3.5), (MASK, 36.0, 37.0)):
        state = _unmixed(bits)
        assert _splitmix(state) == bits
        key = (state - 0x9E3779B97F4A7C15) & MASK
        value = noise.gumbel(_tensor(key - (1 << 64) if key >> 63 else key), _tensor(0)).item()
        assert least < value < most


def test_any_part_of_a_stream_can_be_read_alone() -> None:
    keys = noise.stream_keys(_tensor(4, 5), _tensor(0, 0), _tensor(9, 9))
    indices = torch.arange(-5, 300)
    whole = noise.gumbel(keys, indices)
    assert torch.equal(noise.gumbel(keys[1:], indices[40:50]), whole[1:, 40:50])
    assert torch.equal(noise.gumbel(keys, indices[None, 7:8].expand(2, 1)), whole[:, 7:8])


def test_values_follow_the_gumbel_distribution() -> None:
    keys = noise.stream_keys(torch.arange(40), torch.zeros(40, dtype=torch.int64), torch.full((40,), 3))
    values = noise.gumbel(keys, torch.arange(5000)).flatten().sort().values
    cumulated = torch.exp(-torch.exp(-values))
    expected = (torch.arange(len(values)) + 0.5) / len(values)
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is exceeded by one true sample in a hundred.
    assert (cumulated - expected).abs().max() < 1.63 / len(values) ** 0.5


def test_neighbouring_streams_are_independent() -> None:
    ones = torch.ones(2000, dtype=torch.int64)
    by_seed = noise.gumbel(noise.stream_keys(torch.arange(2000), ones, ones), _tensor(0)).flatten()
    by_choice = noise.gumbel(noise.stream_keys(ones, torch.arange(2000), ones), _tensor(0)).flatten()
    by_position = noise.gumbel(noise.stream_keys(ones, ones, torch.arange(2000)), _tensor(0)).flatten()
    for values in (by_seed, by_choice, by_position):
        pairs = torch.stack((values[:-1], values[1:]))
        assert abs(torch.corrcoef(pairs)[0, 1]) < 0.08
        assert abs(values.mean() - 0.5772) < 0.1
