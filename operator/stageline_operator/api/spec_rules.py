"""Rules across the parts of a spec: GPUs and tensor parallelism, layers and model, volumes and mounts, deadlines.

A stage's own setting hides that of ``stageDefaults``; CEL has no variables, so each rule says so itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stageline_operator.api.base import Rule
from stageline_operator.api.resources import Resources, cel_is_gpu, gpus, is_gpu

if TYPE_CHECKING:
    from stageline_operator.api.pod_settings import CommonSettings
    from stageline_operator.api.spec import InferenceDeploymentSpec

_DEFAULTS = "self.pipeline.stageDefaults"


def _limits(settings: str) -> str:
    return f"{settings}.resources.limits"


def _has_limits(settings: str) -> str:
    return f"has({settings}.resources) && has({settings}.resources.limits)"


def _has_gpu(settings: str) -> str:
    return f"({_has_limits(settings)} && {_limits(settings)}.exists(k, {cel_is_gpu('k')}))"


def _gpus_are(settings: str, ranks: str) -> str:
    limits = _limits(settings)
    return (
        f"(!({_has_limits(settings)}) || {limits}.all(k, !{cel_is_gpu('k')} || string({limits}[k]) == string({ranks})))"
    )


def _has_cpu(settings: str) -> str:
    return f"({_has_limits(settings)} && 'cpu' in {_limits(settings)})"


def _asks_for_cpu(settings: str) -> str:
    requests = f"{settings}.resources.requests"
    return f"(has({settings}.resources) && has({requests}) && 'cpu' in {requests})"


def _every_stage(equal: str, listed: str) -> str:
    """``equal`` where the pipeline is a number of equal stages, ``listed`` for each stage ``s`` where it is a list."""
    stages = "self.pipeline.stageList"
    return f"has({stages}) && {stages}.size() > 0 ? {stages}.all(s, {listed}) : ({equal})"


_RANKS = f"(has(s.tensorParallel) ? s.tensorParallel : {_DEFAULTS}.tensorParallel)"


def stage_needs(spec: InferenceDeploymentSpec) -> Iterator[tuple[int, dict[str, str | int]]]:
    """Ranks, and resource limits with those of ``stageDefaults``, of each stage; one entry stands for equal stages.

    As plan.merge joins them; and a stage with GPUs of its own is asked about those, another rule about two kinds.
    """
    defaults = spec.pipeline.stage_defaults
    wide = _limits_of(defaults.resources)
    if not spec.pipeline.stage_list:
        yield defaults.tensor_parallel, wide
    for stage in spec.pipeline.stage_list:
        own = _limits_of(stage.resources)
        named = own.keys() | (stage.resources.requests.keys() if stage.resources else set())
        inherited = {
            key: value for key, value in wide.items() if key not in named and (gpus(own) is None or not is_gpu(key))
        }
        yield stage.tensor_parallel or defaults.tensor_parallel, {**inherited, **own}


def _limits_of(resources: Resources | None) -> dict[str, str | int]:
    return {} if resources is None else resources.limits


def _each(condition: Callable[[int, dict[str, str | int]], bool]) -> Callable[[Any], bool]:
    return lambda spec: all(condition(ranks, limits) for ranks, limits in stage_needs(spec))


GPU_RULES = (
    Rule(
        _every_stage(
            _gpus_are(_DEFAULTS, f"{_DEFAULTS}.tensorParallel"),
            f"{_gpus_are('s', _RANKS)} && ({_has_gpu('s')} || {_gpus_are(_DEFAULTS, _RANKS)})",
        ),
        "spec.pipeline: a stage asks for another number of GPUs in resources.limits than it has tensor-parallel ranks;"
        " make resources.limits['nvidia.com/gpu'] equal to tensorParallel",
        _each(lambda ranks, limits: gpus(limits) in (None, str(ranks))),
    ),
    Rule(
        _every_stage(
            f"{_DEFAULTS}.tensorParallel == 1 || {_has_gpu(_DEFAULTS)} || {_has_cpu(_DEFAULTS)}",
            f"{_RANKS} == 1 || {_has_gpu('s')} || {_has_cpu('s')} || {_has_gpu(_DEFAULTS)}"
            f" || ({_has_cpu(_DEFAULTS)} && !{_asks_for_cpu('s')})",
        ),
        "spec.pipeline: tensorParallel is above 1 and resources.limits are missing; add nvidia.com/gpu: tensorParallel"
        " to resources.limits, or cpu for ranks on CPUs",
        _each(lambda ranks, limits: ranks == 1 or gpus(limits) is not None or "cpu" in limits),
    ),
    Rule(
        "!has(self.pipeline.stageList) || self.pipeline.stageList.all(s,"
        f" !{_has_gpu('s')} || !{_has_gpu(_DEFAULTS)}"
        f" || {_limits('s')}.all(k, !{cel_is_gpu('k')} || k in {_limits(_DEFAULTS)}))",
        "spec.pipeline.stageList: a stage asks for another kind of GPU than stageDefaults, and would get both; ask for"
        " the same kind, or give GPUs in the list only",
        lambda spec: all(
            gpus(wide := _limits_of(spec.pipeline.stage_defaults.resources)) is None
            or all(not is_gpu(key) or key in wide for key in _limits_of(stage.resources))
            for stage in spec.pipeline.stage_list
        ),
    ),
    Rule(
        "self.engine.device != 'cuda' || ("
        + _every_stage(_has_gpu(_DEFAULTS), f"{_has_gpu('s')} || {_has_gpu(_DEFAULTS)}")
        + ")",
        "spec.engine.device is cuda, and a stage asks for no GPU; add nvidia.com/gpu to its resources.limits",
        lambda spec: spec.engine.device != "cuda" or _each(lambda _, limits: gpus(limits) is not None)(spec),
    ),
    Rule(
        "self.engine.device != 'cpu' || ("
        + _every_stage(f"!{_has_gpu(_DEFAULTS)}", f"!{_has_gpu('s')} && !{_has_gpu(_DEFAULTS)}")
        + ")",
        "spec.engine.device is cpu, and a stage asks for GPUs, which would idle; remove them, or set device: cuda",
        lambda spec: spec.engine.device != "cpu" or _each(lambda _, limits: gpus(limits) is None)(spec),
    ),
)


def _layers_add_up(spec: InferenceDeploymentSpec) -> bool:
    layers, pipeline = spec.model.layers, spec.pipeline
    if layers is None:
        return True
    if pipeline.layer_split:
        return sum(pipeline.layer_split) == layers
    ranges = [stage.layers for stage in pipeline.stage_list if stage.layers is not None]
    return not ranges or ranges[-1].end == layers


LAYER_RULES = (
    Rule(
        "!has(self.model.layers) || (has(self.pipeline.layerSplit) && self.pipeline.layerSplit.size() > 0"
        " ? self.pipeline.layerSplit.sum() == self.model.layers"
        " : !has(self.pipeline.stageList) || self.pipeline.stageList.size() == 0"
        " || !self.pipeline.stageList.all(s, has(s.layers))"
        " || self.pipeline.stageList[self.pipeline.stageList.size() - 1].layers.end == self.model.layers)",
        "spec.pipeline: the layers of the stages do not add up to spec.model.layers; change the split, or correct or"
        " remove model.layers",
        _layers_add_up,
    ),
    Rule(
        "!has(self.model.layers) || (has(self.pipeline.stages) ? self.pipeline.stages <= self.model.layers"
        " : !has(self.pipeline.stageList) || self.pipeline.stageList.size() <= self.model.layers)",
        "spec.pipeline: more stages than spec.model.layers; lower their number, or correct model.layers",
        lambda spec: (
            spec.model.layers is None
            or max(spec.pipeline.stages or 0, len(spec.pipeline.stage_list)) <= spec.model.layers
        ),
    ),
)


def _mounts_known(settings: str, *scopes: str) -> str:
    known = " || ".join(f"(has({scope}.volumes) && {scope}.volumes.exists(v, v.name == m.name))" for scope in scopes)
    return f"(!has({settings}.volumeMounts) || {settings}.volumeMounts.all(m, {known}))"


def _mounts_hold(*scopes: CommonSettings) -> bool:
    known = {volume.name for scope in scopes for volume in scope.volumes}
    return all(mount.name in known for mount in scopes[0].volume_mounts)


def _mount_rule(
    place: str, others: str, cel: str, scopes: Callable[[InferenceDeploymentSpec], Iterable[tuple[CommonSettings, ...]]]
) -> Rule:
    """Mounts at ``place`` have their volumes there or in ``others``.

    Args:
        scopes: the settings there, then the others; for each stage of a list.
    """
    return Rule(
        cel,
        f"{place}.volumeMounts: a mount names a volume that is not in volumes beside it{others}; add the volume, or"
        " correct the name",
        lambda spec: all(_mounts_hold(*each) for each in scopes(spec)),
    )


MOUNT_RULES = (
    _mount_rule(
        "spec.podTemplate",
        "",
        _mounts_known("self.podTemplate", "self.podTemplate"),
        lambda spec: [(spec.pod_template,)],
    ),
    _mount_rule(
        "spec.head",
        " or in podTemplate",
        _mounts_known("self.head", "self.head", "self.podTemplate"),
        lambda spec: [(spec.head, spec.pod_template)],
    ),
    _mount_rule(
        "spec.pipeline.stageDefaults",
        " or in podTemplate",
        _mounts_known(_DEFAULTS, _DEFAULTS, "self.podTemplate"),
        lambda spec: [(spec.pipeline.stage_defaults, spec.pod_template)],
    ),
    _mount_rule(
        "spec.pipeline.stageList",
        ", in stageDefaults or in podTemplate",
        "!has(self.pipeline.stageList) || self.pipeline.stageList.all(s, "
        + _mounts_known("s", "s", _DEFAULTS, "self.podTemplate")
        + ")",
        lambda spec: [(stage, spec.pipeline.stage_defaults, spec.pod_template) for stage in spec.pipeline.stage_list],
    ),
)

DEADLINE_RULES = (
    Rule(
        "self.engine.startTimeout <= self.restart.replicaDeadlineSeconds",
        "spec.restart.replicaDeadlineSeconds is below spec.engine.startTimeout, so a replica would be given up while it"
        " loads; raise it, or lower startTimeout",
        lambda spec: spec.engine.start_timeout <= spec.restart.replica_deadline_seconds,
    ),
    Rule(
        "self.engine.startTimeout <= self.restart.recoveryDeadlineSeconds",
        "spec.restart.recoveryDeadlineSeconds is below spec.engine.startTimeout, so a replica would be given up while a"
        " stage loads; raise it, or lower startTimeout",
        lambda spec: spec.engine.start_timeout <= spec.restart.recovery_deadline_seconds,
    ),
)

SPEC_RULES = (*GPU_RULES, *LAYER_RULES, *MOUNT_RULES, *DEADLINE_RULES)
