"""Tolerations of pods: core/v1's type with bounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.values import LabelKey, LabelValue


class Toleration(ApiModel):
    """A taint that a pod may be placed in spite of."""

    key: LabelKey | None = None
    """Key of the taint. Default: all taints, with `operator: Exists`."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal` compares the value, `Exists` only asks for the key."""
    value: LabelValue | None = None
    """Value of the taint, with `operator: Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: all effects."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """Seconds that the pod stays after a NoExecute taint came. Default: for ever."""

    rules = (
        Rule(
            "has(self.key) || self.operator == 'Exists'",
            "tolerations: without a key, write operator: Exists",
            lambda toleration: toleration.key is not None or toleration.operator == "Exists",
        ),
        Rule(
            "self.operator != 'Exists' || !has(self.value)",
            "tolerations: operator Exists compares no value; leave value out, or write operator: Equal",
            lambda toleration: toleration.operator != "Exists" or toleration.value is None,
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "tolerations: tolerationSeconds needs effect: NoExecute; add it",
            lambda toleration: toleration.toleration_seconds is None or toleration.effect == "NoExecute",
        ),
    )
