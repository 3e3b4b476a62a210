"""How the model is cut into pipeline stages, and what each stage's pod needs."""

from __future__ import annotations

import itertools
from typing import Annotated

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.constants import MAX_STAGES, MAX_TENSOR_PARALLEL
from stageline_operator.api.pod_settings import PodSettings

MAX_LAYERS = 1024
LayerCount = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
Ranks = Annotated[int, Field(ge=1, le=MAX_TENSOR_PARALLEL)]


class LayerRange(ApiModel):
    """A contiguous range of layers: `start` is in it, `end` is not."""

    start: Annotated[int, Field(ge=0, lt=MAX_LAYERS)]
    """First layer, from 0."""
    end: LayerCount
    """Layer after the last one."""

    rules = (
        Rule(
            "self.start < self.end",
            "layers: the range is empty; end is the layer after the last one, raise it above start",
            lambda layers: layers.start < layers.end,
        ),
    )


class StageDefaults(PodSettings):
    """What every stage has: tensor parallelism, resources, placement. Its entry in `stageList` may say otherwise."""

    tensor_parallel: Ranks = 1
    """Tensor-parallel ranks of a stage; all of them live in one pod."""


class Stage(PodSettings):
    """One pipeline stage: what differs from `stageDefaults`."""

    tensor_parallel: Ranks | None = None
    """Tensor-parallel ranks of this stage. Default: that of `stageDefaults`."""
    layers: LayerRange | None = None
    """Layers of this stage; all stages have it or none. Default: split by predicted time."""


def _ranges_meet(pipeline: Pipeline) -> bool:
    ranges = [stage.layers for stage in pipeline.stage_list if stage.layers is not None]
    if len(ranges) < len(pipeline.stage_list):
        return True
    return all(before.end == after.start for before, after in itertools.pairwise(ranges))


_RANGES_GIVEN = "!has(self.stageList) || !self.stageList.all(s, has(s.layers))"


class Pipeline(ApiModel):
    """How the model is cut into stages, and what each stage needs. Either `stages`, for equal stages, or `stageList`,
    one entry for each stage."""

    stages: Annotated[int, Field(ge=1, le=MAX_STAGES)] | None = None
    """Number of equal pipeline stages. Default: the length of `stageList`."""
    layer_split: Annotated[tuple[LayerCount, ...], Field(max_length=MAX_STAGES)] = ()
    """Layers per stage, one number for each of `stages`, e.g. `[19, 11]`. Default: split by predicted time."""
    stage_defaults: StageDefaults = StageDefaults()
    """What every stage has: tensor parallelism, resources, placement."""
    stage_list: Annotated[tuple[Stage, ...], Field(max_length=MAX_STAGES)] = ()
    """One entry for each stage, in order, with what differs from `stageDefaults`."""

    rules = (
        Rule(
            "has(self.stages) != (has(self.stageList) && self.stageList.size() > 0)",
            "spec.pipeline: give either stages (a number of equal stages) or stageList (one entry for each stage)",
            lambda pipeline: (pipeline.stages is not None) != bool(pipeline.stage_list),
        ),
        Rule(
            "!has(self.layerSplit) || self.layerSplit.size() == 0"
            " || !has(self.stageList) || self.stageList.size() == 0",
            "spec.pipeline.layerSplit goes with stages; with stageList, give each stage its layers",
            lambda pipeline: not (pipeline.layer_split and pipeline.stage_list),
        ),
        Rule(
            "!has(self.layerSplit) || self.layerSplit.size() == 0 || !has(self.stages)"
            " || self.layerSplit.size() == self.stages",
            "spec.pipeline.layerSplit: give one number for each of spec.pipeline.stages",
            lambda pipeline: (
                not pipeline.layer_split or pipeline.stages is None or len(pipeline.layer_split) == pipeline.stages
            ),
        ),
        Rule(
            "!has(self.stageList) || self.stageList.all(s, has(s.layers)) || !self.stageList.exists(s, has(s.layers))",
            "spec.pipeline.stageList: some stages have layers and some have not; give all of them layers, or none",
            lambda pipeline: len({stage.layers is None for stage in pipeline.stage_list}) <= 1,
        ),
        Rule(
            f"{_RANGES_GIVEN} || self.stageList.size() == 0 || self.stageList[0].layers.start == 0",
            "spec.pipeline.stageList[0].layers.start: begin the first stage with layer 0",
            lambda pipeline: (
                not pipeline.stage_list
                or any(stage.layers is None for stage in pipeline.stage_list)
                or pipeline.stage_list[0].layers.start == 0
            ),
        ),
        Rule(
            # Starts with the last end behind them equal 0 with the ends behind it, exactly when each range begins
            # where the one before it ends; the first start has a rule of its own, so it stands for itself here.
            f"{_RANGES_GIVEN} || self.stageList.size() == 0"
            " || self.stageList.map(s, s.layers.start) + [self.stageList[self.stageList.size() - 1].layers.end]"
            " == [self.stageList[0].layers.start] + self.stageList.map(s, s.layers.end)",
            "spec.pipeline.stageList: layers overlap or leave a gap; let each stage start at the end of the one before",
            _ranges_meet,
        ),
    )
