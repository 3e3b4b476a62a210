"""The two ways to write a pipeline, equal stages and a list, as one."""

from __future__ import annotations

from stageline_operator.api.pipeline import Pipeline, Stage


def stage_list(pipeline: Pipeline) -> tuple[Stage, ...]:
    """One entry for each stage, however the pipeline is written."""
    return pipeline.stage_list or tuple(Stage() for _ in range(pipeline.stages or 1))


def tensor_parallel(pipeline: Pipeline) -> tuple[int, ...]:
    """Ranks of each stage."""
    return tuple(stage.tensor_parallel or pipeline.stage_defaults.tensor_parallel for stage in stage_list(pipeline))


def layer_ranges(pipeline: Pipeline) -> tuple[tuple[int, int], ...]:
    """Range [start, end) of each stage; empty when the engine splits."""
    ends = 0
    ranges = []
    for layers in layer_split(pipeline):
        ranges.append((ends, ends + layers))
        ends += layers
    return tuple(ranges)


def layer_split(pipeline: Pipeline) -> tuple[int, ...]:
    """Layers of each stage; empty when the engine splits."""
    if pipeline.layer_split:
        return pipeline.layer_split
    ranges = [stage.layers for stage in pipeline.stage_list]
    return tuple(layers.end - layers.start for layers in ranges if layers is not None)
