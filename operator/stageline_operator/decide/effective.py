"""The plan as the status shows it, and each field of the spec with the value that is in force."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from stageline_operator.api import quantity
from stageline_operator.api.constants import MAX_EFFECTIVE
from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.api.state import HeadState
from stageline_operator.api.status import EffectiveSetting, PlanStatus, StagePlanStatus
from stageline_operator.decide.outcome import Course, Outcome
from stageline_operator.plan import names
from stageline_operator.plan.engine_flags import model_argument, served_name
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.revision import in_force

_STAGES: Final = "pipeline.stageList"
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
    """Each field, once, as it is where requests are answered. The engine's own word counts more than ours; without an
    answer, its last word stays."""
    status, serving = outcome.spec.status, serving_plan(outcome)
    wanted = _in_force(outcome)
    settings = [
        EffectiveSetting(field=f"spec.{path}", value=_text(value), source="operator")
        for path, value in _opened({**_flat(wanted.dump()), **_derived(outcome, wanted)})
    ]
    found = {setting.field: setting for setting in settings}
    if status.effective_revision == serving.revision:
        found |= {each.field: each for each in status.effective if each.source == "engine"}
    for name, value in _said(outcome).items():
        field = _engine_field(name)
        if name in type(wanted.engine).model_fields:
            found[field] = EffectiveSetting(field=field, value=_text(value), source="engine")
    return tuple(found[field] for field in sorted(found))[:MAX_EFFECTIVE]


def serving_plan(outcome: Outcome) -> RevisionPlan:
    """The revision that answers requests: the spec's own as soon as a replica of it is ready."""
    course = _serving(outcome)
    return outcome.plan.current if course is None or course.replica.plan is None else course.replica.plan


def differing(outcome: Outcome, settings: Iterable[EffectiveSetting]) -> list[str]:
    """Fields of the engine that have another value in force than was asked for; each as a sentence's part."""
    reported = {setting.field: setting.value for setting in settings if setting.source == "engine"}
    found = []
    for name, wanted in _in_force(outcome).engine:
        value = reported.get(_engine_field(name))
        if value is None or wanted is None or wanted == "auto" or _is_equal(_text(wanted), value):
            continue
        found.append(f"{_engine_field(name)} is {_text(wanted)}, and the engine reports {value}")
    return found


def _serving(outcome: Outcome) -> Course | None:
    """A replica of the revision that serves, a ready one first."""
    current = outcome.plan.current.revision
    known = [course.replica for course in outcome.staying if course.replica.plan is not None]
    first = min(known, key=lambda each: (not each.is_ready, each.revision != current, each.number), default=None)
    return next((course for course in outcome.staying if course.replica is first), None)


def _in_force(outcome: Outcome) -> InferenceDeploymentSpec:
    wanted, serving = outcome.spec.wanted, serving_plan(outcome)
    return wanted if serving.revision == outcome.plan.current.revision else in_force(wanted, serving.content)


def _derived(outcome: Outcome, wanted: InferenceDeploymentSpec) -> dict[str, Any]:
    """Fields that a person left to the operator."""
    course, owner = _serving(outcome), outcome.plan.owner
    found: dict[str, Any] = {
        "scheduling.gang": (outcome.gang if course is None else course.gang).name,
        "model.servedName": served_name(wanted.model),
        "network.serviceName": names.client_service(owner, wanted.network.service_name),
    }
    if wanted.model.source.startswith("hf://"):
        in_source = wanted.model.source.partition("@")[2]
        found["model.revision"] = wanted.model.revision or in_source or "the hub's default branch"
    return found


def _said(outcome: Outcome) -> dict[str, Any]:
    """What the engine of the revision that serves reports; one that still loads has not decided yet."""
    serving = serving_plan(outcome).revision
    for course in sorted(outcome.staying, key=lambda course: course.replica.number):
        answer = course.replica.answer
        state = None if answer is None else answer.state
        if course.replica.revision == serving and state is not None and state.ready:
            return {name: value for name, value in state.settings.items() if value is not None}
    return {}


def _state(outcome: Outcome) -> HeadState | None:
    """What the head of a replica of the current revision says; the first by number, so that it does not alternate."""
    for course in sorted(outcome.staying, key=lambda course: course.replica.number):
        answer = course.replica.answer
        if course.replica.revision == outcome.plan.current.revision and answer is not None and answer.state is not None:
            return answer.state
    return None


def _stages_before(outcome: Outcome) -> tuple[StagePlanStatus, ...]:
    before = outcome.spec.status.plan
    return before.stage_list if before is not None and before.revision == outcome.plan.current.revision else ()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_leaves(values, ""))


def _opened(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The list of stages field by field; stage by stage when these are too many."""
    stages = values.get(_STAGES)
    if stages is None:
        return list(values.items())
    others = [(path, value) for path, value in values.items() if path != _STAGES]
    whole = [(f"{_STAGES}[{number}]", stage) for number, stage in enumerate(stages)]
    single = [leaf for path, stage in whole for leaf in (_leaves(stage, path) if stage else [(path, stage)])]
    return others + (single if len(others) + len(single) <= MAX_EFFECTIVE else whole)


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
