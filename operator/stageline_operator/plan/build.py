"""Spec (and the contents of earlier revisions) → Plan."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace

from stageline_operator.api.errors import SpecError
from stageline_operator.api.pod_template import PodSecurity
from stageline_operator.api.spec import InferenceDeploymentSpec
from stageline_operator.plan.engine_flags import engine_arguments, served_name
from stageline_operator.plan.merge import merge
from stageline_operator.plan.plan import Plan, RevisionPlan, StagePlan
from stageline_operator.plan.revision import content_of, hash_of, restore
from stageline_operator.plan.spec import Spec
from stageline_operator.plan.stages import layer_ranges, stage_list, tensor_parallel

PRE_STOP_SECONDS = 10
"""A head accepts requests for so long after SIGTERM, until every proxy has heard that it is leaving."""
GRACE_MARGIN_SECONDS = 10
"""Beyond drain and pre-stop: for the processes to end."""


def build_plan(spec: Spec, contents: Mapping[str, str]) -> Plan:
    """The plan of a resource.

    Args:
        spec: the validated resource.
        contents: by revision, what ControllerRevisions hold. One that this version cannot read is left out, so its
            replicas are not healed but replaced.
    """
    wanted = spec.wanted
    current = build_revision(wanted)
    earlier = {}
    for name, content in contents.items():
        if name != current.revision:
            with contextlib.suppress(SpecError, ValueError):
                earlier[name] = replace(build_revision(restore(content)), revision=name)
    return Plan(
        owner=spec.owner,
        generation=spec.generation,
        replicas=wanted.replicas,
        current=current,
        earlier=earlier,
        rollout=wanted.rollout,
        restart=wanted.restart,
        network=wanted.network,
        monitoring=wanted.monitoring,
        gang=wanted.scheduling.gang,
    )


def build_revision(wanted: InferenceDeploymentSpec) -> RevisionPlan:
    """All that the pods of one replica depend on."""
    content = content_of(wanted)
    template = wanted.pod_template
    every_stage = merge(template, wanted.pipeline.stage_defaults)
    ranges = layer_ranges(wanted.pipeline)
    ranks = tensor_parallel(wanted.pipeline)
    grace_head = PRE_STOP_SECONDS + wanted.engine.drain_timeout + GRACE_MARGIN_SECONDS
    keys = wanted.network.api_keys
    return RevisionPlan(
        revision=hash_of(content),
        content=content,
        model=wanted.model,
        served_name=served_name(wanted.model),
        image=wanted.image,
        image_pull_policy=wanted.image_pull_policy,
        image_pull_secrets=tuple(secret.name for secret in template.image_pull_secrets),
        engine_arguments=engine_arguments(wanted),
        log_level=wanted.engine.log_level,
        head=merge(template, wanted.head),
        stages=tuple(
            StagePlan(
                stage=number,
                tensor_parallel=ranks[number],
                layers=ranges[number] if ranges else None,
                settings=merge(every_stage, stage),
            )
            for number, stage in enumerate(stage_list(wanted.pipeline))
        ),
        labels=dict(template.labels),
        annotations=dict(template.annotations),
        security=template.security or PodSecurity(),
        scheduling=wanted.scheduling,
        api_keys=None if keys is None else (keys.name, keys.key),
        node_lost_seconds=wanted.restart.node_lost_seconds,
        grace_head=grace_head,
        grace_stage=grace_head + GRACE_MARGIN_SECONDS,
    )
