"""The workloads of `stageline bench` are the same everywhere, and no request profits from another's prefix."""

from __future__ import annotations

import hashlib
import itertools
import statistics

import pytest

from stageline_engine.bench.workloads import WARM_UP, WORKLOADS, Workload, parse_workloads
from stageline_engine.core.errors import ConfigurationError

CHECKSUMS = {
    "W1": "400b6586036c6224",
    "W2": "ea11ebed628d99a9",
    "W3": "58617fdf13428d28",
    "W4": "a628047f2583f40e",
}


def checksum(workload: Workload) -> str:
    digest = hashlib.sha256()
    for request in workload.requests(seed=0, round_=0):
        digest.update(f"{request.prompt_token_ids} {request.output_tokens}\n".encode())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", CHECKSUMS)
def test_a_workload_never_changes(name: str) -> None:
    assert checksum(WORKLOADS[name]) == CHECKSUMS[name]


@pytest.mark.parametrize(
    ("name", "count", "prompt", "output"), [("W1", 32, 64, 128), ("W2", 16, 512, 16), ("W3", 1, 64, 128)]
)
def test_fixed_lengths(name: str, count: int, prompt: int, output: int) -> None:
    requests = WORKLOADS[name].requests(seed=0, round_=0)
    assert [(len(request.prompt_token_ids), request.output_tokens) for request in requests] == [
        (prompt, output)
    ] * count


def test_mixed_lengths_spread_as_documented() -> None:
    lengths = WORKLOADS["W4"].lengths
    assert len(lengths) == 48
    prompts, outputs = zip(*lengths, strict=True)
    assert min(prompts) >= 16
    assert max(prompts) <= 512
    assert min(outputs) >= 8
    assert max(outputs) <= 256
    assert 90 < statistics.median(prompts) < 180
    assert 45 < statistics.median(outputs) < 90
    assert len(set(lengths)) > 40


@pytest.mark.parametrize("workload", [*WORKLOADS.values(), WARM_UP], ids=lambda workload: workload.name)
def test_no_two_requests_share_a_prefix(workload: Workload) -> None:
    firsts = [request.prompt_token_ids[0] for request in workload.requests(seed=0, round_=0)]
    assert len(set(firsts)) == len(firsts)


def test_rounds_and_seeds_have_prompts_of_their_own() -> None:
    heads = [
        tuple(request.prompt_token_ids[:8])
        for workload, seed, round_ in itertools.product(WORKLOADS.values(), (0, 1), (0, 1, 2))
        for request in workload.requests(seed, round_)
    ]
    assert len(set(heads)) == len(heads)


def test_chosen_workloads_come_in_the_order_given() -> None:
    assert [workload.name for workload in parse_workloads("w3, W1")] == ["W3", "W1"]


@pytest.mark.parametrize("text", ["", "W5", "W1,,W2", "W1,W1"])
def test_unknown_or_repeated_workloads_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--workloads="):
        parse_workloads(text)
