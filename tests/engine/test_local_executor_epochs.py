"""A rank is set up again and again: survivors of a death keep their weights and their process, links and KV are new."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import zmq

from stageline_engine.comm.commands import Connect, Connected, Hello, RankId
from stageline_engine.core.deployment import RankLoaded, RankSettings
from stageline_engine.core.errors import ConfigurationError, ModelSourceError, StageFailedError, UnsupportedModelError
from stageline_engine.core.messages import AdmitSequence, Segment, StepPlan, StepReport, StepResult
from stageline_engine.executor.base import ExecutorEvent, Started
from stageline_engine.executor.local import local_host
from stageline_engine.executor.rank_host import RankHost
from stageline_engine.executor.rank_setup import RankSetup, Reply
from stageline_engine.executor.roster import Tell, tell_nobody
from support.executor_driver import NUM_BLOCKS, ExecutorDriver, stage_settings
from support.processes import nothing_left
from support.tiny_models import LAYERS, tiny_model

PROMPTS = [[5, 9, 2, 71, 30, 8, 1], [200, 3]]
MAX_TOKENS = 6


class Pipeline:
    """Ranks that are set up as often as a test wants; drives like an executor."""

    def __init__(self, settings: Sequence[RankSettings]) -> None:
        self.settings = settings
        self.host = local_host(settings)
        self.host.wait_all(Hello, lambda rank_id, hello: None)
        self.members = [(stage.spec.stage, rank) for stage in settings for rank in range(stage.spec.tp)]
        self.lines: list[str] = []

    def start(
        self,
        settings: Sequence[RankSettings] = (),
        choose_blocks: Callable[[list[RankLoaded]], int] = lambda loaded: NUM_BLOCKS,
        progress: Callable[[str], None] = lambda line: None,
        epoch: int = 1,
        tell: Tell = tell_nobody,
    ) -> Started:
        self.lines.clear()
        setup = RankSetup(self.host, settings or self.settings, epoch, self.lines.append)
        loaded, num_blocks = setup.run(choose_blocks)
        return Started(loaded=loaded, num_blocks=num_blocks, rank_pids=self.host.pids())

    def admit(self, admission: AdmitSequence) -> None:
        self.host.send_to(self.members, admission)

    def submit(self, plan: StepPlan) -> None:
        self.host.send_to(self.members, plan)

    def poll(self) -> list[ExecutorEvent]:
        events: list[ExecutorEvent] = [
            reply for _, reply in self.host.collect() if isinstance(reply, StepResult | StepReport)
        ]
        failure = self.host.take_failure()
        return [*events, failure] if isinstance(failure, StageFailedError) else events

    def sockets(self) -> list[zmq.Socket[bytes] | int]:
        return self.host.sockets()

    def resident_bytes(self) -> list[int]:
        return self.host.resident_bytes()

    def drain(self) -> None:
        self.host.drain()

    def close(self, failure: str = "") -> None:
        self.host.close(failure)


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with nothing_left():
        made = Pipeline(stage_settings(tiny_model("llama"), [0, 2, LAYERS], [2, 1]))
        yield made
        made.close()


def kept(lines: Sequence[str]) -> list[bool]:
    """Which stages, in order, kept their weights."""
    told = {line.split()[1]: "kept its weights" in line for line in lines if "layers" in line}
    return [told[stage] for stage in sorted(told)]


def test_survivors_of_a_death_keep_weights_and_process(pipeline: Pipeline) -> None:
    before = pipeline.start(epoch=1)
    assert kept(pipeline.lines) == [False, False]
    expected = ExecutorDriver(pipeline, epoch=1).generate(PROMPTS, MAX_TOKENS)

    # Nobody died: everything but the weights is new, and what belongs to the epoch before is refused.
    pipeline.start(epoch=2)
    assert kept(pipeline.lines) == [True, True]
    pipeline.submit(StepPlan(1, 1, 0, [Segment(1, 0, 1, True)], [(1, [1])], [], 0))
    driver = ExecutorDriver(pipeline, epoch=2)
    assert driver.generate(PROMPTS, MAX_TOKENS) == expected
    assert {result.epoch for result in driver.results} == {2}

    # The last stage dies in service; stage 0 then has tokens and activations that nobody takes.
    os.kill(before.rank_pids[1][0], signal.SIGKILL)
    with pytest.raises(StageFailedError) as caught:
        driver.generate(PROMPTS, MAX_TOKENS)
    assert (caught.value.stage, caught.value.exit_code) == (1, -9)

    pipeline.host.replace((1, 0))
    pipeline.host.wait_all(Hello, lambda rank_id, hello: None, members=[(1, 0)])
    after = pipeline.start(epoch=3)
    assert kept(pipeline.lines) == [True, False]
    assert after.rank_pids[0] == before.rank_pids[0]
    assert after.rank_pids[1] != before.rank_pids[1]
    assert ExecutorDriver(pipeline, epoch=3).generate(PROMPTS, MAX_TOKENS) == expected


def test_mistakes_are_told_and_the_ranks_go_on(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}')
    empty = tmp_path / "empty"
    empty.mkdir()
    good = pipeline.settings

    def changed(**changes: object) -> list[RankSettings]:
        return [msgspec.structs.replace(stage, **changes) for stage in good]

    with pytest.raises(UnsupportedModelError, match="GPT2LMHeadModel"):
        pipeline.start(changed(model_folder=str(tmp_path)), epoch=1)
    with pytest.raises(ModelSourceError) as missing:
        pipeline.start(changed(model_folder=str(empty)), epoch=2)
    assert missing.value.remedy
    assert str(empty) in str(missing.value)
    beyond = msgspec.structs.replace(good[1].spec, end=LAYERS + 1)
    with pytest.raises(ConfigurationError) as cut:
        pipeline.start([good[0], msgspec.structs.replace(good[1], spec=beyond)], epoch=3)
    assert type(cut.value) is ConfigurationError
    assert cut.value.field == "--layer-split"

    pipeline.start(epoch=4)
    # Stage 0 had its weights of epoch 3.
    assert kept(pipeline.lines) == [True, False]
    assert len(ExecutorDriver(pipeline, epoch=4).generate(PROMPTS, MAX_TOKENS)) == len(PROMPTS)


def test_an_epoch_ends_while_ranks_wait_for_each_other(pipeline: Pipeline) -> None:
    pipeline.start(epoch=1)
    expected = ExecutorDriver(pipeline, epoch=1).generate(PROMPTS, MAX_TOKENS)
    pipeline.start(epoch=2)
    driver = ExecutorDriver(pipeline, epoch=2)
    sequence, _ = driver.admit([1, 2, 3], MAX_TOKENS)
    plan = StepPlan(2, 1, 0, [Segment(sequence, 0, 3, True)], [(sequence, [1, 2, 3])], [], 0)
    # Only the last stage gets the plan: it waits for activations that never come, until the next epoch.
    pipeline.host.send_to([(1, 0)], plan)
    pipeline.start(epoch=3)
    assert kept(pipeline.lines) == [True, True]
    assert ExecutorDriver(pipeline, epoch=3).generate(PROMPTS, MAX_TOKENS) == expected


class HalfConnected:
    """Passes everything on, but lets only stage 1 connect, and gives up then."""

    def __init__(self, host: RankHost) -> None:
        self._host = host
        self.begin_epoch = host.begin_epoch

    def send(self, rank_id: RankId, command: msgspec.Struct) -> None:
        if not (isinstance(command, Connect) and rank_id[0] == 0):
            self._host.send(rank_id, command)

    def wait_all(self, kind: type[Reply], on_reply: Callable[[RankId, Reply], None]) -> None:
        if kind is Connected:
            raise TimeoutError
        self._host.wait_all(kind, on_reply)


def test_an_epoch_ends_while_ranks_connect(pipeline: Pipeline) -> None:
    setup = RankSetup(HalfConnected(pipeline.host), pipeline.settings, 1, pipeline.lines.append)
    with pytest.raises(TimeoutError):
        setup.run(lambda loaded: NUM_BLOCKS)
    pipeline.start(epoch=2)
    assert len(ExecutorDriver(pipeline, epoch=2).generate(PROMPTS, MAX_TOKENS)) == len(PROMPTS)


def test_a_gap_in_the_plans_is_not_run_over(pipeline: Pipeline) -> None:
    pipeline.start(epoch=1)
    driver = ExecutorDriver(pipeline, epoch=1)
    sequence, _ = driver.admit([1, 2, 3], MAX_TOKENS)
    pipeline.submit(StepPlan(1, 2, 0, [Segment(sequence, 0, 3, True)], [(sequence, [1, 2, 3])], [], 0))
    with pytest.raises(StageFailedError) as caught:
        driver.wait_for(2)
    assert "StepGapError" in caught.value.log_tail
