"""What `GET /state` answers: who runs the stages, and the settings that are in force. Values in, values out.

The operator reads it (tests/contract); its words are those of `core.messages`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.messages import STAGE_ABSENT, EngineReady, PipelineState
from stageline_engine.engine.setup import CoreSetup

Setting = str | int | float | bool | None


class StageState(msgspec.Struct, frozen=True, kw_only=True):
    """One stage as the head sees it."""

    stage: int
    pod: str
    """Pod that joined for it; "" while none has, and where stages are no pods."""
    state: str
    """``absent``, ``loading``, ``member`` (of the epoch) or ``lost``."""
    layers: tuple[int, int] | None
    """Layer range [start, end); None until it is decided."""
    tensor_parallel: int
    """Its ranks."""


class HeadState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer; no secrets in it."""

    epoch: int
    """Generation of the process groups, from 1; 0 before the first."""
    ready: bool
    """As ``GET /ready``: a token went through all stages lately, and new requests are taken."""
    draining: bool
    """The head ends as soon as running requests have."""
    stages: list[StageState]
    """All stages, in order."""
    settings: dict[str, Setting]
    """By field name, as in `core.config`; None: not decided yet."""


def stage_states(config: EngineConfig, setup: CoreSetup | None, pipeline: PipelineState | None) -> list[StageState]:
    """All stages, in order: as the engine core told, or, before it did, as they are planned.

    Args:
        setup: None before the cut is decided.
        pipeline: None before the core told anything.
    """
    if pipeline is not None:
        return [
            StageState(
                stage=member.stage,
                pod=member.pod,
                state=member.state,
                layers=member.layers,
                tensor_parallel=member.tensor_parallel,
            )
            for member in pipeline.stages
        ]
    return [
        StageState(
            stage=stage,
            pod="",
            state=STAGE_ABSENT,
            layers=None if setup is None else (setup.specs[stage].start, setup.specs[stage].end),
            tensor_parallel=config.parallel.tp_of(stage),
        )
        for stage in range(config.parallel.stages)
    ]


def settings_in_force(
    config: EngineConfig, served: Mapping[str, Setting], setup: CoreSetup | None, ready: EngineReady | None
) -> dict[str, Setting]:
    """Every setting of the head by its field name, with what was decided at start in the place of defaults.

    Args:
        config: as a person gave it.
        served: settings that only the API server has, and those that it resolved.
        setup: what was made of it; None before that.
        ready: what the running engine told; None before it ran.
    """
    config = config if setup is None else setup.config
    values = {name: value for name, value in _fields(config) if not isinstance(value, msgspec.Struct)}
    for part in (config.model, config.parallel, config.cache, config.scheduler):
        values.update(_fields(part))
    if setup is not None:
        values |= {
            "max_model_len": setup.max_model_len,
            "max_num_batched_tokens": setup.token_budget,
            "layer_split": tuple(spec.end - spec.start for spec in setup.specs),
        }
    if ready is not None:
        values["micro_batches"] = ready.slots
        values["kv_memory"] = config.cache.kv_memory or ready.kv_memory
    return {name: _shown(value) for name, value in {**values, **served}.items()}


def _fields(part: msgspec.Struct) -> Iterable[tuple[str, object]]:
    return msgspec.structs.asdict(part).items()


def _shown(value: object) -> Setting:
    if value == "auto":
        return None
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    assert value is None or isinstance(value, str | int | float)
    return value
