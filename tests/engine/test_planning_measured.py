"""A better split from measured busy seconds: finds the balance of what is, whatever the constants predicted."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.devices import cpu
from stageline_engine.planning.measured import Proposal, StageProposal, propose
from stageline_engine.planning.memory import MemoryLimit
from stageline_engine.planning.units import parse_bytes
from stageline_engine.planning.workload import Workload
from support.profiles import SMOLLM2_135M, config

MIX = Workload(prompt_tokens=64, output_tokens=128)
LIMIT = MemoryLimit(bytes=parse_bytes("--memory", "64GiB"), source="test", is_shared=True)
Truth = Callable[[tuple[int, ...]], list[float]]
"""Busy seconds of the stages at a split."""


def truth(layer: float, head: float, speeds: tuple[float, ...]) -> Truth:
    """A pipeline whose layers and head really take so long, on machines of these speeds."""

    def busy(split: tuple[int, ...]) -> list[float]:
        last = len(split) - 1
        return [(layers * layer + head * (stage == last)) / speeds[stage] for stage, layers in enumerate(split)]

    return busy


def proposed(split: tuple[int, ...], real: Truth) -> Proposal:
    return propose(SMOLLM2_135M, config(stages=len(split)), split, real(split), MIX, cpu(1), LIMIT)


def best(stages: int, real: Truth) -> float:
    """The least time of the slowest stage over all splits."""
    cuts = itertools.combinations(range(1, 30), stages - 1)
    return min(max(real(tuple(b - a for a, b in itertools.pairwise((0, *cut, 30))))) for cut in cuts)


@pytest.mark.parametrize("start", [(15, 15), (25, 5), (3, 27)])
@pytest.mark.parametrize("head", [0.0, 3.0, 8.0])
def test_one_look_finds_the_best_split_of_equal_machines(start: tuple[int, ...], head: float) -> None:
    real = truth(1.0, head, (1.0, 1.0))
    found = proposed(start, real)
    # An embedding, or rows, may count a little in the prediction: a layer more or less.
    assert max(real(found.proposed_split)) <= best(2, real) + 1.0
    assert found.is_best or found.gain == pytest.approx(max(real(start)) / max(real(found.proposed_split)), rel=0.1)


@pytest.mark.parametrize("speeds", [(1.0, 0.5), (0.5, 1.0), (1.0, 1.0, 0.4), (1.0, 0.4, 1.0)])
def test_a_slow_machine_gets_fewer_layers_until_nothing_is_better(speeds: tuple[float, ...]) -> None:
    real = truth(1.0, 4.0, speeds)
    split = (30 // len(speeds),) * len(speeds)
    before = max(real(split))
    for _ in range(5):
        found = proposed(split, real)
        if found.is_best:
            break
        split = found.proposed_split
    assert found.is_best
    assert max(real(split)) <= best(len(speeds), real) * 1.05
    assert max(real(split)) < before


def test_the_present_split_is_kept_when_it_is_the_best() -> None:
    real = truth(1.0, 6.0, (1.0, 1.0))
    found = proposed((18, 12), real)
    assert found.is_best
    assert (found.layer_split, found.proposed_split, found.gain) == ((18, 12), (18, 12), 1.0)
    assert [stage.load for stage in found.stages] == [1.0, 1.0]


def test_the_slowest_stage_and_the_gain_are_told() -> None:
    found = proposed((20, 10), truth(1.0, 0.0, (1.0, 1.0)))
    assert found.slowest_stage == 0
    assert [stage.load for stage in found.stages] == pytest.approx([4 / 3, 2 / 3])
    assert found.gain == pytest.approx(4 / 3, rel=0.05)
    assert [stage.predicted_load for stage in found.stages] == pytest.approx([1.0, 1.0], rel=0.05)


def test_one_stage_has_nothing_to_share() -> None:
    assert proposed((30,), truth(1.0, 6.0, (1.0,))).is_best


def test_memory_forbids_what_balance_would_do() -> None:
    real = truth(1.0, 0.0, (1.0, 0.5))
    free = propose(SMOLLM2_135M, config(stages=2), (15, 15), real((15, 15)), MIX, cpu(1), LIMIT)
    tight = MemoryLimit(bytes=parse_bytes("--memory", "51MiB"), source="test", flag="--memory", value="51MiB")
    assert free.proposed_split[0] > 15
    with pytest.raises(ConfigurationError, match="--memory='51MiB': no split fits"):
        propose(SMOLLM2_135M, config(stages=2), (15, 15), real((15, 15)), MIX, cpu(1), tight)


@pytest.mark.parametrize("struct", [Proposal, StageProposal])
def test_every_key_of_the_json_is_documented(struct: type[msgspec.Struct]) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
    assert [name for name in struct.__struct_fields__ if f"`{name}`" not in documented] == []
