"""How a change reaches the replicas: in whole pipeline replicas."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.constants import MAX_REPLICAS


class Rollout(ApiModel):
    """How a change reaches the replicas. The unit is a whole pipeline replica: a new one is made, and when it is ready
    an old one is drained."""

    max_surge: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    """Replicas that may exist beyond `spec.replicas` during a roll-out."""
    max_unavailable: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 0
    """Replicas that may be missing from `spec.replicas` during a roll-out. Where there is no room for one more replica,
    set `maxSurge: 0` and `maxUnavailable: 1`."""
    paused: bool = False
    """Make no replica of a new revision and drain no old one; scaling and healing go on."""
    revision_history: Annotated[int, Field(ge=1, le=50)] = 5
    """Earlier revisions that are kept, as ControllerRevisions, when no replica has them any more."""

    rules = (
        Rule(
            "self.maxSurge > 0 || self.maxUnavailable > 0",
            "spec.rollout: maxSurge and maxUnavailable are both 0, so no change could reach a replica; make one of them"
            " 1",
            lambda rollout: rollout.max_surge > 0 or rollout.max_unavailable > 0,
        ),
    )
