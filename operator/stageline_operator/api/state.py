"""What the head answers at ``GET /state``: the engine's truth, as the operator reads it.

tests/contract feeds what a real head answers to this. Unknown fields are ignored, so that an engine may know more than
its operator; a missing field, or a number that the status cannot hold, is an error: it would be a lie in the status.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What the status can hold."""


class StageState(BaseModel):
    """One stage as the head sees it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    stage: Count
    """Number of the stage, from 0."""
    pod: str
    """Pod that registered for it; "" while none has."""
    state: str
    """``absent``, ``loading``, ``member`` (of the epoch) or ``lost``."""
    layers: tuple[Count, Count] | None = None
    """Layer range [start, end); None until it is decided."""
    tensor_parallel: Count
    """Its ranks."""


class HeadState(BaseModel):
    """The whole answer."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    epoch: Count
    """Generation of the process groups, from 1; 0 before the first."""
    ready: bool
    """A token went through all stages lately."""
    draining: bool
    """The head ends as soon as running requests have."""
    stages: tuple[StageState, ...]
    """All stages, in order."""
    settings: dict[str, str | int | float | bool | None]
    """Values in force, by the engine's field name (``max_num_seqs``), as it decided them."""
