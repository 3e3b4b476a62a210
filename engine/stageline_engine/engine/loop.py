"""The engine loop: commands in, plans out, results in, outputs out. One thread, no waiting but in `select`.

commands ──▶ scheduler ──▶ plan ──▶ executor ──▶ stages
outputs  ◀── scheduler ◀── result ◀── executor ◀──┘
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

import msgspec

from stageline_engine.core.errors import InvalidInputError, OverloadedError, StageFailedError
from stageline_engine.core.logs import REQUEST_ID
from stageline_engine.core.messages import (
    AbortSequences,
    AddRequest,
    CoreCommand,
    CoreEvent,
    Drain,
    Outputs,
    Rejected,
    SequenceOutput,
    StepReport,
    StepResult,
)
from stageline_engine.core.request import SamplingParams, validate_prompt, validate_sampling
from stageline_engine.core.step_log import StepLog
from stageline_engine.engine.stats import StatsBook
from stageline_engine.engine.traced_steps import TracedSteps
from stageline_engine.executor.base import Executor
from stageline_engine.scheduler.scheduler import Scheduler
from stageline_engine.scheduler.types import PROBE_PREFIX

_log = logging.getLogger(__name__)
PROBE_AFTER_SECONDS = 2.0
"""Idle time after which a heartbeat token is sent through all stages (readiness asks for one in 5 s)."""


class EngineLoop:
    """Joins a scheduler and an executor. The caller owns the sockets, the clock and the thread.

    Args:
        emit: takes each event for the client; called from :meth:`handle` and :meth:`turn`.
        seed: base of the seeds given to requests that have none.
        vocab_size: one more than the largest token id that the model takes.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        stats: StatsBook,
        emit: Callable[[CoreEvent], None],
        eos_token_ids: tuple[int, ...],
        seed: int,
        hang_timeout: float,
        vocab_size: int,
    ) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._stats = stats
        self._emit = emit
        self._eos_token_ids = eos_token_ids
        self._seeds = random.Random(seed)
        self._hang_timeout = hang_timeout
        self._vocab_size = vocab_size
        self._draining = False
        self._num_probes = 0
        self._steps = StepLog(_log, "planned")
        self._traced = TracedSteps(stats.num_stages, emit)

    @property
    def draining(self) -> bool:
        """Whether new requests are refused."""
        return self._draining

    def handle(self, command: CoreCommand) -> None:
        """Take one command of the client; Shutdown is the caller's."""
        if isinstance(command, AddRequest):
            self._add(command)
        elif isinstance(command, AbortSequences):
            self._publish(self._scheduler.abort(command.request_id, command.choices))
        elif isinstance(command, Drain):
            self._draining = True

    def turn(self, now: float) -> bool:
        """Take what came back, then plan as far as slots allow; returns whether anything was done.

        Raises:
            StageFailedError: a stage died, raised, or made no progress for the hang limit.
        """
        worked = False
        self._stats.saw_work(not self._scheduler.is_idle, now)
        for event in self._executor.poll():
            worked = True
            if isinstance(event, StepResult):
                self._stats.saw_result(now)
                self._publish(self._scheduler.complete(event, now))
            elif isinstance(event, StepReport):
                self._stats.saw_report(event, now)
                self._scheduler.observe(event)
                self._traced.saw_report(event)
            else:
                raise event
        while (step := self._scheduler.plan(now)) is not None:
            worked = True
            for admission in step.admissions:
                self._executor.admit(admission)
            self._executor.submit(step.plan)
            self._stats.saw_plan(step.plan)
            self._steps.note(step.plan)
            for sequence in step.admitted:
                self._traced.begin(sequence)
            self._traced.saw_plan(step.plan)
        self._stats.saw_work(not self._scheduler.is_idle, now)
        return worked

    def check(self, now: float) -> None:
        """Once in a while: send a heartbeat token when idle, and look for a hang.

        Raises:
            StageFailedError: no step ended for the hang limit although one is in flight.
        """
        if not self._scheduler.has_work:
            if now - self._stats.last_token_at >= PROBE_AFTER_SECONDS:
                self._probe()
            return
        stats = self._scheduler.stats()
        if stats.oldest_planned_at is None:
            return
        age = now - max(stats.oldest_planned_at, self._stats.last_token_at)
        limit = max(self._hang_timeout, 4 * stats.oldest_predicted_seconds)
        if age > limit:
            stage = self._stats.slowest_stage()
            steps = ", ".join(map(str, self._stats.last_steps))
            raise StageFailedError(
                stage, 0, f"no progress for {age:.1f} s (limit {limit:.1f} s): hung; last steps by stage: {steps}"
            )

    def _add(self, request: AddRequest) -> None:
        if self._draining:
            self._emit(Rejected(request.request_id, "the engine is draining: no new requests", retry_after=5))
            return
        sampling = request.sampling
        if sampling.seed is None:
            sampling = msgspec.structs.replace(sampling, seed=self._seeds.getrandbits(63))
        try:
            # An id or a value that a stage cannot take would end the engine for everybody.
            validate_prompt(request.prompt_token_ids, self._vocab_size)
            validate_sampling(sampling, self._vocab_size)
            self._scheduler.add(msgspec.structs.replace(request, sampling=sampling), self._eos_token_ids)
            _log.debug("queued %d prompt tokens", len(request.prompt_token_ids), extra={REQUEST_ID: request.name})
        except OverloadedError as error:
            self._emit(Rejected(request.request_id, str(error), error.retry_after))
        except InvalidInputError as error:
            self._emit(Rejected(request.request_id, error.remedy, 0, error.field, str(error.value)))

    def _probe(self) -> None:
        self._num_probes += 1
        # A request for prompt logprobs is not looked up in the prefix cache, so probes do not count as its queries.
        greedy = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, seed=0, prompt_logprobs=0)
        name = f"{PROBE_PREFIX}{self._num_probes}"
        self._scheduler.add(AddRequest(name, [0], greedy, name=name), ())

    def _publish(self, outputs: Sequence[SequenceOutput]) -> None:
        visible = [output for output in outputs if not output.request_id.startswith(PROBE_PREFIX)]
        if visible:
            self._emit(Outputs(visible))
            self._traced.saw_outputs(visible)
