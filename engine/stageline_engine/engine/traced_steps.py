"""What the steps of traced choices cost each stage; tells it when all stages have accounted for the last one.

A step's time is that of all rows in it: a choice that shares its steps with others is told the whole of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stageline_engine.core.messages import ChoiceTimes, PhaseTimes, SequenceOutput, StepPlan, StepReport
from stageline_engine.core.sequence import Sequence


@dataclass
class _Phase:
    num_stages: int
    steps: int = 0
    busy: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.busy = [0.0] * self.num_stages


@dataclass
class _Choice:
    request_id: str
    choice: int
    prefill: _Phase
    decode: _Phase
    has_sampled: bool = False
    """A plan has its first token: what comes now is decoding."""
    num_open: int = 0
    """Steps that not all stages have accounted for."""
    has_ended: bool = False


@dataclass
class _Step:
    num_missing: int
    """Stages that have not accounted for it."""
    parts: list[tuple[_Choice, _Phase]]


class TracedSteps:
    """Costs nothing while no choice is traced.

    Args:
        tell: takes the times of each choice, once, some time after its last output.
    """

    def __init__(self, num_stages: int, tell: Callable[[ChoiceTimes], None]) -> None:
        self._num_stages = num_stages
        self._tell = tell
        self._by_seq: dict[int, _Choice] = {}
        self._steps: dict[int, _Step] = {}

    def begin(self, sequence: Sequence) -> None:
        """A choice is admitted; again, after a preemption."""
        if sequence.traced and sequence.seq not in self._by_seq:
            phases = _Phase(self._num_stages), _Phase(self._num_stages)
            self._by_seq[sequence.seq] = _Choice(sequence.request_id, sequence.choice, *phases)

    def saw_plan(self, plan: StepPlan) -> None:
        """A micro-batch was sent."""
        if not self._by_seq:
            return
        parts: list[tuple[_Choice, _Phase]] = []
        for segment in plan.segments:
            if (choice := self._by_seq.get(segment.seq)) is not None:
                phase = choice.decode if choice.has_sampled else choice.prefill
                choice.has_sampled |= segment.samples
                choice.num_open += 1
                phase.steps += 1
                parts.append((choice, phase))
        if parts:
            self._steps[plan.step] = _Step(self._num_stages, parts)

    def saw_report(self, report: StepReport) -> None:
        """A stage accounts for a step."""
        if (step := self._steps.get(report.step)) is None:
            return
        step.num_missing -= 1
        for choice, phase in step.parts:
            phase.busy[report.stage] += report.busy
            if not step.num_missing:
                choice.num_open -= 1
                self._tell_if_done(choice)
        if not step.num_missing:
            del self._steps[report.step]

    def saw_outputs(self, outputs: list[SequenceOutput]) -> None:
        """Choices have new tokens, or their end."""
        if not self._by_seq:
            return
        ended = {(output.request_id, output.choice) for output in outputs if output.finish_reason is not None}
        for seq, choice in [(seq, one) for seq, one in self._by_seq.items() if (one.request_id, one.choice) in ended]:
            del self._by_seq[seq]
            choice.has_ended = True
            self._tell_if_done(choice)

    def _tell_if_done(self, choice: _Choice) -> None:
        if choice.has_ended and not choice.num_open:
            self._tell(ChoiceTimes(choice.request_id, choice.choice, _times(choice.prefill), _times(choice.decode)))


def _times(phase: _Phase) -> PhaseTimes:
    return PhaseTimes(phase.steps, phase.busy)
