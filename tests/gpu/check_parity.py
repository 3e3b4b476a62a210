"""Tokens from a GPU, and from several: for `make gpu-check`, not for `make test`. Not run yet."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import pytest
import torch

from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import StageFailedError
from stageline_engine.executor.local import LocalExecutor
from support.executor_driver import NUM_BLOCKS, ExecutorDriver, stage_settings
from support.processes import nothing_left
from support.tiny_models import FAMILIES, LAYERS, parity_prompts, reference_greedy, tiny_model

GPUS = torch.cuda.device_count()
LENGTHS = [7, 2, 9, 1]
MAX_TOKENS = 9


def needs(count: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(count > GPUS, reason=f"needs {count} GPUs, this machine has {GPUS}")


def on_gpus(
    family: str, bounds: Sequence[int], tp: Sequence[int], first_devices: Sequence[int] = ()
) -> list[RankSettings]:
    firsts = first_devices or [sum(tp[:stage]) for stage in range(len(tp))]
    return [
        msgspec.structs.replace(stage, device="cuda", first_device=first)
        for stage, first in zip(stage_settings(tiny_model(family), bounds, tp), firsts, strict=True)
    ]


def check_parity(driver: ExecutorDriver, family: str) -> None:
    """Transformers' greedy tokens, on a CPU, twice: the second time blocks and links have been used."""
    folder = tiny_model(family)
    prompts = parity_prompts(folder, LENGTHS, MAX_TOKENS)
    expected = reference_greedy(folder, prompts, MAX_TOKENS)
    for _ in range(2):
        assert driver.generate(prompts, MAX_TOKENS) == expected


@contextmanager
def running(settings: Sequence[RankSettings]) -> Iterator[tuple[ExecutorDriver, list[list[int]]]]:
    """A driver, and the process ids of the ranks by stage."""
    with nothing_left():
        executor = LocalExecutor()
        started = executor.start(settings, lambda loaded: NUM_BLOCKS, print, 1)
        try:
            yield ExecutorDriver(executor), started.rank_pids
        finally:
            executor.close()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_one_stage_gives_the_tokens_of_a_cpu(family: str) -> None:
    with running(on_gpus(family, [0, LAYERS], [1])) as (driver, _):
        check_parity(driver, family)


def test_two_stages_share_a_gpu() -> None:
    with running(on_gpus("llama", [0, 2, LAYERS], [1, 1], [0, 0])) as (driver, _):
        check_parity(driver, "llama")


@pytest.mark.parametrize(
    ("bounds", "tp"),
    [
        pytest.param([0, 2, LAYERS], [1, 1], marks=needs(2)),
        pytest.param([0, LAYERS], [2], marks=needs(2)),
        pytest.param([0, 1, 3, LAYERS], [1, 1, 1], marks=needs(3)),
        pytest.param([0, 2, LAYERS], [2, 1], marks=needs(3)),
        pytest.param([0, 2, LAYERS], [1, 2], marks=needs(3)),
        pytest.param([0, 2, LAYERS], [2, 2], marks=needs(4)),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_cut_pipelines_give_the_tokens_of_a_cpu_over_nccl(bounds: Sequence[int], tp: Sequence[int]) -> None:
    with running(on_gpus("llama", bounds, tp)) as (driver, _):
        check_parity(driver, "llama")


@needs(2)
@pytest.mark.parametrize(("bounds", "tp"), [([0, 2, LAYERS], [1, 1]), ([0, LAYERS], [2])], ids=["stages", "tp"])
def test_the_death_of_a_rank_is_named(bounds: Sequence[int], tp: Sequence[int]) -> None:
    with running(on_gpus("llama", bounds, tp)) as (driver, pids):
        driver.generate([[5, 9, 2], [200, 3]], MAX_TOKENS)
        os.kill(pids[-1][-1], signal.SIGKILL)
        with pytest.raises(StageFailedError, match="SIGKILL"):
            driver.generate([[5, 9, 2], [200, 3]], MAX_TOKENS)
