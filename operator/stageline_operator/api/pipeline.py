"""How the model is cut into pipeline stages, and what each stage's pod needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.base import ApiModel
from stageline_operator.api.constants import MAX_STAGES, MAX_TENSOR_PARALLEL
from stageline_operator.api.pod_settings import PodSettings


class LayerRange(ApiModel):
    """A contiguous range of layers: `start` is in it, `end` is not."""

    start: Annotated[int, Field(ge=0, le=1023)]
    """First layer, from 0."""
    end: Annotated[int, Field(ge=1, le=1024)]
    """Layer after the last one."""


class StageDefaults(PodSettings):
    """What every stage has, unless its entry in `stageList` says otherwise."""

    tensor_parallel: Annotated[int, Field(ge=1, le=MAX_TENSOR_PARALLEL)] = 1
    """Tensor-parallel ranks of a stage; all of them live in one pod."""


class Stage(PodSettings):
    """One pipeline stage: what differs from `stageDefaults`."""

    tensor_parallel: Annotated[int, Field(ge=1, le=MAX_TENSOR_PARALLEL)] | None = None
    """Tensor-parallel ranks of this stage. Default: that of `stageDefaults`."""
    layers: LayerRange | None = None
    """Layers of this stage; all stages have it or none. Default: split by predicted time."""


class Pipeline(ApiModel):
    """How the model is cut. Either `stages`, for equal stages, or `stageList`, one entry for each stage."""

    stages: Annotated[int, Field(ge=1, le=MAX_STAGES)] | None = None
    """Number of equal pipeline stages. Default: the length of `stageList`."""
    layer_split: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], Field(max_length=MAX_STAGES)] = ()
    """Layers per stage, one number for each of `stages`, e.g. `[19, 11]`. Default: split by predicted time."""
    stage_defaults: StageDefaults = StageDefaults()
    """What every stage has: tensor parallelism, resources, placement."""
    stage_list: Annotated[tuple[Stage, ...], Field(max_length=MAX_STAGES)] = ()
    """One entry for each stage, in order, with what differs from `stageDefaults`."""
