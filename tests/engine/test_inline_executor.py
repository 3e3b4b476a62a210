"""The inline executor: stages and ranks as threads, and what happens when one of them fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stageline_engine.core.deployment import RankLoaded, RankSettings, StageSpec
from stageline_engine.core.errors import ModelSourceError, StageFailedError
from stageline_engine.core.messages import AdmitSequence, PipelineState, Segment, StepPlan, StepReport, StepResult
from stageline_engine.core.request import SamplingParams
from stageline_engine.executor.inline import InlineExecutor
from stageline_engine.executor.thread_ranks import RankThreads
from stageline_engine.models.tensor_group import TensorGroup
from support.tiny_models import LAYERS, parity_prompts, reference_greedy, tiny_model


def _settings(folder: Path, tp: tuple[int, ...]) -> list[RankSettings]:
    bounds = [LAYERS * stage // len(tp) for stage in range(len(tp) + 1)]
    return [
        RankSettings(
            model_folder=str(folder),
            spec=StageSpec(stage=stage, num_stages=len(tp), start=bounds[stage], end=bounds[stage + 1], tp=ranks),
            dtype="float32",
            device="cpu",
            threads=1,
            block_size=4,
            max_model_len=64,
            max_num_batched_tokens=16,
            max_num_seqs=4,
        )
        for stage, ranks in enumerate(tp)
    ]


@pytest.fixture
def executor() -> Iterator[InlineExecutor]:
    executor = InlineExecutor()
    yield executor
    executor.close()
    executor.close()


def test_a_step_runs_through_stages_of_different_width(executor: InlineExecutor) -> None:
    folder = tiny_model("llama")
    prompt = parity_prompts(folder, [9], 3)[0]
    seen: list[RankLoaded] = []
    lines: list[str] = []

    def choose(loaded: list[RankLoaded]) -> int:
        seen.extend(loaded)
        return 20

    states: list[PipelineState] = []

    started = executor.start(_settings(folder, (2, 1, 2)), choose, lines.append, 4, states.append)
    assert started.num_blocks == 20
    assert started.loaded == seen
    assert [(loaded.stage, loaded.rank) for loaded in seen] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    assert len(lines) == 6
    assert [(state.epoch, [stage.state for stage in state.stages]) for state in states] == [
        (0, ["absent", "absent", "absent"]),
        (0, ["loading", "absent", "absent"]),
        (0, ["loading", "loading", "absent"]),
        (0, ["loading", "loading", "loading"]),
        (4, ["member", "member", "member"]),
    ]
    assert [(stage.tensor_parallel, stage.layers[0]) for stage in states[-1].stages] == [(2, 0), (1, 1), (2, 3)]
    assert (executor.sockets(), executor.resident_bytes(), executor.poll()) == ([], [], [])

    executor.admit(AdmitSequence(4, 0, prompt, 9, SamplingParams(temperature=0.0), 0, ()))
    plans = [
        StepPlan(4, 1, 0, [Segment(0, 0, 9, True)], [(0, [3, 1, 2])], [], 0),
        StepPlan(4, 2, 1, [Segment(0, 9, 1, True)], [], [], 1),
        StepPlan(4, 3, 0, [Segment(0, 10, 1, True)], [], [], 2),
    ]
    tokens = []
    for plan in plans:
        executor.submit(plan)
        events = executor.poll()
        reports = [event for event in events if isinstance(event, StepReport)]
        assert [(report.stage, report.step) for report in reports] == [(0, plan.step), (1, plan.step), (2, plan.step)]
        assert all(report.busy > 0 for report in reports)
        # To one rank, then to two, of float32.
        bytes_of_rows = plan.num_rows * 48 * 4
        assert [report.boundary_bytes for report in reports] == [bytes_of_rows, 2 * bytes_of_rows, 0]
        results = [event for event in events if isinstance(event, StepResult)]
        assert [(result.step, result.slot) for result in results] == [(plan.step, plan.slot)]
        tokens += [token.token for token in results[0].tokens]
    assert [tokens] == reference_greedy(folder, [prompt], 3)


def test_a_failing_stage_is_an_event_and_the_last_one(executor: InlineExecutor) -> None:
    executor.start(_settings(tiny_model("llama"), (1, 2)), lambda loaded: 10, lambda line: None, 1)
    executor.submit(StepPlan(1, 2, 0, [], [], [], 0))
    (failure,) = executor.poll()
    assert isinstance(failure, StageFailedError)
    assert failure.stage == 0
    assert "step 1 comes next" in failure.reason
    assert "Traceback" in failure.log_tail
    executor.submit(StepPlan(1, 1, 0, [], [], [], 0))
    assert executor.poll() == []


def test_a_wrong_model_folder_is_told_as_such(executor: InlineExecutor, tmp_path: Path) -> None:
    with pytest.raises(ModelSourceError, match=r"config\.json"):
        executor.start(_settings(tmp_path, (2,)), lambda loaded: 10, lambda line: None, 1)


def test_ranks_that_wait_for_one_that_raised_are_released() -> None:
    ranks: RankThreads[TensorGroup] = RankThreads(5, 3)

    def fail_on_rank_1(group: TensorGroup) -> torch.Tensor:
        if group.rank == 1:
            raise RuntimeError("broken")
        return group.all_reduce(torch.ones(2))

    try:
        ranks.make(lambda rank, group: group)
        with pytest.raises(StageFailedError, match="stage 5 rank 1: RuntimeError: broken"):
            ranks.call(fail_on_rank_1)
    finally:
        ranks.close()


def test_ranks_sum_and_gather() -> None:
    ranks: RankThreads[TensorGroup] = RankThreads(0, 3)
    try:
        ranks.make(lambda rank, group: group)
        for _ in range(20):
            sums = ranks.call(lambda group: group.all_reduce(torch.tensor([1.0, float(group.rank)])))
            assert [total.tolist() for total in sums] == [[3.0, 3.0]] * 3
        gathered = ranks.call(lambda group: group.all_gather_last(torch.full((2, 1), float(group.rank))))
        assert [whole.tolist() for whole in gathered] == [[[0.0, 1.0, 2.0]] * 2] * 3
    finally:
        ranks.close()
