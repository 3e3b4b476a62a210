"""The plan as the status shows it, and each field of the spec with the value that is in force."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from stageline_operator.api import quantity
from stageline_operator.api.state import HeadState
from stageline_operator.api.status import EffectiveSetting, PlanStatus, StagePlanStatus
from stageline_operator.decide.outcome import Outcome
from stageline_operator.plan.engine_flags import model_argument

MOST: Final = 256
VALUE_LIMIT: Final = 1024


def plan_status(outcome: Outcome) -> PlanStatus:
    """What the operator makes of the spec; layers as the engine reports them when it splits itself."""
    current = outcome.plan.current
    ranks = [stage.tensor_parallel for stage in current.stages]
    state = _state(outcome)
    reported = {} if state is None else {stage.stage: stage.layers for stage in state.stages}
    before = {stage.stage: stage.layers for stage in _stages_before(outcome)}
    return PlanStatus(
        revision=current.revision,
        stages=len(current.stages),
        tensor_parallel=",".join(map(str, ranks if len(set(ranks)) > 1 else ranks[:1])),
        model=model_argument(current.model) if current.model.source.startswith("hf://") else current.model.source,
        pods_per_replica=current.pods_per_replica,
        gang=outcome.gang.name,
        stage_list=tuple(
            StagePlanStatus(
                stage=stage.stage,
                tensor_parallel=stage.tensor_parallel,
                layers=_range(stage.layers or reported.get(stage.stage)) or before.get(stage.stage, ""),
            )
            for stage in current.stages
        ),
    )


def effective(outcome: Outcome) -> tuple[EffectiveSetting, ...]:
    """Each field, once. The engine's own word counts more than ours; without an answer, its last word stays."""
    spec, state = outcome.spec, _state(outcome)
    is_same = spec.status.current_revision == outcome.plan.current.revision
    before = {each.field: each for each in spec.status.effective if is_same and each.source == "engine"}
    settings = [
        EffectiveSetting(field=f"spec.{path}", value=_text(value), source="operator")
        for path, value in _leaves(spec.wanted.dump(), "")
    ]
    found = {setting.field: setting for setting in settings} | before
    for name, value in ({} if state is None else state.settings).items():
        field = _engine_field(name)
        if name in type(spec.wanted.engine).model_fields:
            found[field] = EffectiveSetting(field=field, value=_text(value), source="engine")
    return tuple(found[field] for field in sorted(found))[:MOST]


def differing(outcome: Outcome, settings: Iterable[EffectiveSetting]) -> list[str]:
    """Fields of the engine that have another value in force than the spec asks for; each as a sentence's part."""
    reported = {setting.field: setting.value for setting in settings if setting.source == "engine"}
    found = []
    for name, wanted in outcome.spec.wanted.engine:
        value = reported.get(_engine_field(name))
        if value is None or wanted is None or wanted == "auto" or _is_equal(_text(wanted), value):
            continue
        found.append(f"{_engine_field(name)} is {_text(wanted)}, and the engine reports {value}")
    return found


def _state(outcome: Outcome) -> HeadState | None:
    """What the head of a ready replica of the current revision says; the first by number, so that it does not
    alternate."""
    for course in sorted(outcome.staying, key=lambda course: course.replica.number):
        answer = course.replica.answer
        if course.replica.revision == outcome.plan.current.revision and answer is not None and answer.state is not None:
            return answer.state
    return None


def _stages_before(outcome: Outcome) -> tuple[StagePlanStatus, ...]:
    before = outcome.spec.status.plan
    return before.stage_list if before is not None and before.revision == outcome.plan.current.revision else ()


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Fields with a value of their own; lists and maps of free keys as one."""
    if isinstance(value, Mapping) and value and not _is_free_map(path):
        for key, below in value.items():
            yield from _leaves(below, f"{path}.{key}" if path else key)
    elif value not in ({}, [], ""):
        yield path, value


def _is_free_map(path: str) -> bool:
    return path.rpartition(".")[2] in ("labels", "annotations", "nodeSelector", "requests", "limits")


def _is_equal(wanted: str, value: str) -> bool:
    if wanted == value:
        return True
    try:
        return quantity.parse(wanted) == quantity.parse(value)
    except ValueError:
        return False


def _engine_field(name: str) -> str:
    first, *others = name.split("_")
    return "spec.engine." + first + "".join(other.capitalize() for other in others)


def _range(layers: tuple[int, int] | None) -> str:
    return "" if layers is None else f"{layers[0]}-{layers[1]}"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text if len(text) <= VALUE_LIMIT else text[: VALUE_LIMIT - 1] + "…"
