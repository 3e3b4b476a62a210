"""What befalls a person when a rank dies, raises or is misled: it is named, and nothing is left running."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from stageline_engine.core.deployment import RankLoaded
from stageline_engine.core.errors import ConfigurationError, StageFailedError
from stageline_engine.executor.local import LocalExecutor
from support.executor_driver import NUM_BLOCKS, Running, stage_settings
from support.processes import descendants, nothing_left
from support.tiny_models import tiny_model

PROMPTS = [[5, 9, 2, 71, 30, 8, 1], [200, 3], [17, 18, 19, 20, 21, 22, 23, 24, 25], [99]]
MAX_TOKENS = 9


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_model("llama")


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.mark.parametrize("tp", [(1, 2), (2, 1), (2, 2)])
def test_boundary_bytes_are_those_that_all_ranks_of_the_next_stage_get(folder: Path, tp: tuple[int, int]) -> None:
    running = Running(folder, (0, 2, 5), tp)
    try:
        running.driver.generate(PROMPTS, 1)
        first = next(report for report in running.driver.reports if report.stage == 0)
    finally:
        running.close()
    assert first.boundary_bytes == sum(map(len, PROMPTS[0::2])) * 48 * 4 * tp[1]


@pytest.fixture
def two_stages(folder: Path) -> Iterator[Running]:
    made = Running(folder, (0, 2, 5), (1, 1))
    yield made
    made.close()


def test_reports_account_for_every_stage_and_step(two_stages: Running) -> None:
    driver = two_stages.driver
    driver.generate(PROMPTS, MAX_TOKENS)
    steps = 2 * MAX_TOKENS
    by_stage = {stage: [report for report in driver.reports if report.stage == stage] for stage in (0, 1)}
    assert [report.step for report in by_stage[0]] == list(range(1, steps + 1))
    # The result of a step is sent before its report, so the last report may still be on its way.
    assert [report.step for report in by_stage[1]][: steps - 1] == list(range(1, steps))
    first_rows = sum(map(len, PROMPTS[0::2]))
    assert by_stage[0][0].boundary_bytes == first_rows * 48 * 4
    assert all(report.boundary_bytes == 0 for report in by_stage[1])
    assert all(report.busy > 0 for report in driver.reports)
    # All plans were sent ahead: stage 0 waited for tokens, stage 1 for activations.
    assert sum(report.wait_feedback for report in by_stage[0]) > 0
    assert sum(report.wait_upstream for report in by_stage[1]) > 0
    assert sum(report.wait_feedback for report in by_stage[1]) == 0


def test_a_rank_killed_in_service_is_named(two_stages: Running) -> None:
    two_stages.driver.generate(PROMPTS, MAX_TOKENS)
    os.kill(two_stages.started.rank_pids[1][0], signal.SIGKILL)
    with pytest.raises(StageFailedError, match="SIGKILL") as caught:
        two_stages.driver.generate(PROMPTS, MAX_TOKENS)
    assert (caught.value.stage, caught.value.rank, caught.value.exit_code) == (1, 0, -9)


def test_a_rank_killed_while_idle_is_named(two_stages: Running) -> None:
    os.kill(two_stages.started.rank_pids[0][0], signal.SIGTERM)
    with pytest.raises(StageFailedError, match="SIGTERM") as caught:
        two_stages.driver.wait_for(1)
    assert (caught.value.stage, caught.value.rank, caught.value.exit_code) == (0, 0, -15)


@pytest.mark.parametrize("victim", ["rank", "fork parent"])
def test_a_process_killed_during_start_ends_the_start(folder: Path, victim: str) -> None:
    before = descendants()

    def choose_blocks(loaded: list[RankLoaded]) -> int:
        rank = max((psutil.Process(pid) for pid in descendants() - before), key=lambda process: process.create_time())
        os.kill(rank.pid if victim == "rank" else rank.ppid(), signal.SIGKILL)
        return NUM_BLOCKS

    executor = LocalExecutor()
    with pytest.raises(StageFailedError) as caught:
        executor.start(stage_settings(folder, (0, 2, 5), (1, 1)), choose_blocks, lambda line: None, 1)
    assert caught.value.exit_code == -9


def test_a_rank_that_raises_shows_its_last_words(folder: Path) -> None:
    settings = [msgspec.structs.replace(stage, dtype="float31") for stage in stage_settings(folder, (0, 5), (1,))]
    with pytest.raises(StageFailedError) as caught:
        LocalExecutor().start(settings, lambda loaded: NUM_BLOCKS, lambda line: None, 1)
    assert caught.value.exit_code == 1
    assert "Traceback" in caught.value.log_tail
    assert "float31" in str(caught.value)


def test_an_error_of_choose_blocks_ends_the_start(folder: Path) -> None:
    def choose_blocks(loaded: list[RankLoaded]) -> int:
        raise ConfigurationError("--kv-memory", 1, "give more")

    with pytest.raises(ConfigurationError, match="--kv-memory"):
        LocalExecutor().start(stage_settings(folder, (0, 5), (1,)), choose_blocks, lambda line: None, 1)
