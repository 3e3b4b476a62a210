"""Who runs which stage, told whenever it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.messages import STAGE_ABSENT, STAGE_LOST, STAGE_MEMBER, PipelineState, StageMember

Tell = Callable[[PipelineState], None]


def tell_nobody(state: PipelineState) -> None:
    """For those who do not want to know."""


class Roster:
    """All stages of a pipeline; at first nobody runs them, and ``tell`` hears so at once."""

    def __init__(self, settings: Sequence[RankSettings], tell: Tell) -> None:
        self._tell = tell
        self._epoch = 0
        self._stages = [
            StageMember(
                stage=stage.spec.stage,
                pod="",
                state=STAGE_ABSENT,
                layers=(stage.spec.start, stage.spec.end),
                tensor_parallel=stage.spec.tp,
            )
            for stage in settings
        ]
        self._told: PipelineState | None = None
        self._publish()

    def set(self, stage: int, state: str, pod: str | None = None) -> None:
        """A stage is in another state, or another pod runs it (None: the same as before)."""
        member = self._stages[stage]
        pod = member.pod if pod is None else pod
        self._stages[stage] = msgspec.structs.replace(member, state=state, pod=pod)
        self._publish()

    def begin_epoch(self, epoch: int) -> None:
        """All stages are members of a new epoch."""
        self._epoch = epoch
        self._stages = [msgspec.structs.replace(member, state=STAGE_MEMBER) for member in self._stages]
        self._publish()

    def lose(self, stage: int) -> None:
        """A stage was there, and is not any more."""
        self.set(stage, STAGE_LOST)

    def _publish(self) -> None:
        state = PipelineState(epoch=self._epoch, stages=list(self._stages))
        if state != self._told:
            self._told = state
            self._tell(state)
