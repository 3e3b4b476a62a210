"""What this process is at the moment, from its first step to its last: told by the command as it goes on, read by the
status port's thread."""

from __future__ import annotations

import time
from collections.abc import Callable

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.messages import PipelineState
from stageline_engine.engine.setup import CoreSetup
from stageline_engine.server.context import ServerContext
from stageline_engine.server.head_state import HeadState, Setting, settings_in_force, stage_states

BEAT_SECONDS = 1.0
"""Between two signs of life of the API server's loop."""
LIVE_SECONDS = 10.0
"""A loop that gave no sign for so long does not move."""


class Head:
    """The head of a pipeline. Each field is set once or only ever replaced, so another thread may read at any time.

    Args:
        config: as a person gave it.
        served: settings of the API server, by name, that are in force from the start.
        clock: seconds, monotonic.
    """

    def __init__(
        self, config: EngineConfig, served: dict[str, Setting], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._served = served
        self._clock = clock
        self._setup: CoreSetup | None = None
        self._pipeline: PipelineState | None = None
        self._context: ServerContext | None = None
        self._is_ending = False
        self._beat_at: float | None = None

    def planned(self, setup: CoreSetup, served_model_name: str) -> None:
        """The model is there, and the cut is decided."""
        self._served = {**self._served, "served_model_name": served_model_name}
        self._setup = setup

    def saw(self, pipeline: PipelineState) -> None:
        """The engine core told who runs the stages."""
        self._pipeline = pipeline

    def serves(self, context: ServerContext) -> None:
        """The engine has started, and an API server answers for it."""
        self._context = context

    def ends(self) -> None:
        """It was told to end before it served."""
        self._is_ending = True

    def beat(self) -> None:
        """The API server's loop moves; to be called every BEAT_SECONDS once there is a loop."""
        self._beat_at = self._clock()

    @property
    def is_live(self) -> bool:
        """Whether the loop moves; before there is one the command is at its first steps, which end by themselves."""
        return self._beat_at is None or self._clock() - self._beat_at < LIVE_SECONDS

    @property
    def is_draining(self) -> bool:
        """Whether it ends as soon as running requests have."""
        return self._is_ending or (self._context is not None and self._context.is_draining)

    def not_ready_reason(self) -> str | None:
        """None when a new request would be answered: as `GET /ready` on the API's port."""
        if self.is_draining:
            return "the server is shutting down and takes no new requests"
        return "the engine is starting" if self._context is None else self._context.engine.not_ready_reason()

    def state(self) -> HeadState:
        """The answer to `GET /state`."""
        context, pipeline = self._context, self._pipeline
        ready = None if context is None else context.engine.ready
        return HeadState(
            epoch=0 if pipeline is None else pipeline.epoch,
            ready=self.not_ready_reason() is None,
            draining=self.is_draining,
            stages=stage_states(self._config, self._setup, pipeline),
            settings=settings_in_force(self._config, self._served, self._setup, ready),
        )
