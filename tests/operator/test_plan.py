"""From a resource to its plan: what rolls a replica, what a pod gets from where, what things are called."""

from __future__ import annotations

from typing import Any

import pytest

from stageline_operator.plan import names
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.plan import Plan, RevisionPlan
from stageline_operator.plan.spec import Owner, read_spec
from support import specs


def plan_of(changes: dict[str, Any], contents: dict[str, str] | None = None) -> Plan:
    return build_plan(read_spec(specs.resource(changes)), contents or {})


def current(changes: dict[str, Any]) -> RevisionPlan:
    return plan_of(changes).current


ROLLS: list[dict[str, Any]] = [
    {"spec.image": "stageline/engine:0.2.0"},
    {"spec.imagePullPolicy": "Always"},
    {"spec.model.servedName": "chat"},
    {"spec.model.cache": {"sizeLimit": "4Gi"}},
    {"spec.pipeline.stages": 3},
    {"spec.pipeline.layerSplit": [19, 11]},
    {"spec.pipeline.stageDefaults": {"nodeSelector": {"a": "b"}}},
    {"spec.engine.maxNumSeqs": 63},
    {"spec.engine.drainTimeout": 31},
    {"spec.head.nodeSelector": {"a": "b"}},
    {"spec.scheduling.topologyKey": "zone"},
    {"spec.podTemplate.annotations": {"restarted": "now"}},
    {"spec.network.apiKeys": {"name": "keys", "key": "keys"}},
    {"spec.monitoring.metricsCompat": "vllm"},
    {"spec.monitoring.otlpTracesEndpoint": "http://collector.monitoring:4318/v1/traces"},
    {"spec.restart.nodeLostSeconds": 31},
]

ROLLS_NOTHING: list[dict[str, Any]] = [
    {"spec.replicas": 5},
    {"spec.rollout": {"maxSurge": 3, "paused": True}},
    {"spec.restart.budget": {"crash": 9}},
    {"spec.restart.replicaDeadlineSeconds": 3600},
    {"spec.network.port": 80},
    {"spec.network.serviceType": "NodePort"},
    {"spec.network.networkPolicy": False},
    {"spec.monitoring.intervalSeconds": 30},
    {"spec.monitoring.labels": {"release": "prometheus"}},
    {"spec.engine.maxNumSeqs": 64},  # the default, written out
    {"spec.pipeline": {"stages": 2, "stageList": [], "stageDefaults": {"tensorParallel": 1}}},
    {"metadata.labels": {"a": "b"}},
]


@pytest.mark.parametrize("changes", ROLLS, ids=str)
def test_what_pods_depend_on_makes_a_new_revision(changes: dict[str, Any]) -> None:
    assert current(changes).revision != current({}).revision


@pytest.mark.parametrize("changes", ROLLS_NOTHING, ids=str)
def test_what_pods_do_not_depend_on_keeps_the_revision(changes: dict[str, Any]) -> None:
    assert current(changes).revision == current({}).revision


@pytest.mark.parametrize("case", specs.cases("accepted"), ids=lambda case: case["case"])
def test_an_earlier_revision_is_restored_from_its_content_alone(case: specs.Case) -> None:
    before = build_plan(read_spec(specs.resource_of(case)), {}).current
    after = plan_of({"spec.image": "another/engine"}, {before.revision: before.content})
    assert after.revision(before.revision) == before


def test_the_current_revision_is_not_among_the_earlier_ones() -> None:
    now = current({})
    assert plan_of({}, {now.revision: now.content}).earlier == {}


@pytest.mark.parametrize("content", ["", "[]", '{"model":{"source":"s3://b"}}', '{"image":"x"}', "null"])
def test_a_content_that_cannot_be_read_is_left_out(content: str) -> None:
    assert plan_of({}, {"0123456789": content}).revision("0123456789") is None


def test_a_stage_has_its_own_settings_then_the_defaults_then_the_templates() -> None:
    plan = current(
        {
            "spec.podTemplate": {
                "nodeSelector": {"pool": "all", "disk": "fast"},
                "env": [{"name": "A", "value": "template"}, {"name": "B", "value": "template"}],
                "tolerations": [{"key": "a", "operator": "Exists"}],
                "runtimeClassName": "template",
            },
            "spec.pipeline": {
                "stageDefaults": {
                    "nodeSelector": {"pool": "stages"},
                    "env": [{"name": "B", "value": "defaults"}, {"name": "C", "value": "defaults"}],
                    "tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}],
                },
                "stageList": [
                    {"nodeSelector": {"pool": "first"}, "env": [{"name": "C", "value": "own"}]},
                    {"runtimeClassName": "own"},
                ],
            },
        }
    )
    first, second = (stage.settings for stage in plan.stages)
    assert first.node_selector == {"pool": "first", "disk": "fast"}
    assert {var.name: var.value for var in first.env} == {"A": "template", "B": "defaults", "C": "own"}
    assert [toleration.key for toleration in first.tolerations] == ["a", "b"]
    assert first.runtime_class_name == "template"
    assert second.runtime_class_name == "own"
    assert second.node_selector == {"pool": "stages", "disk": "fast"}
    assert plan.head.node_selector == {"pool": "all", "disk": "fast"}


def test_a_resource_that_a_stage_names_comes_from_the_stage_with_request_and_limit() -> None:
    wide = {"requests": {"cpu": "1", "memory": "8Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 1}}
    plan = current(
        {
            "spec.pipeline": {
                "stageDefaults": {"resources": wide},
                "stageList": [{"resources": {"limits": {"memory": "4Gi"}}}, {"resources": {"requests": {"memory": 1}}}],
            }
        }
    )
    lean, hungry = (stage.settings.resources for stage in plan.stages)
    assert lean is not None
    assert hungry is not None
    assert (lean.requests, lean.limits) == ({"cpu": "1"}, {"memory": "4Gi", "nvidia.com/gpu": 1})
    assert (hungry.requests, hungry.limits) == ({"cpu": "1", "memory": 1}, {"nvidia.com/gpu": 1})


def test_settings_of_several_places_may_be_longer_than_one_place_may_write() -> None:
    def variables(prefix: str) -> list[dict[str, str]]:
        return [{"name": f"{prefix}{number}", "value": "x"} for number in range(32)]

    plan = current(
        {
            "spec.podTemplate.env": variables("A"),
            "spec.pipeline": {"stageDefaults": {"env": variables("B")}, "stageList": [{"env": variables("C")}]},
        }
    )
    assert len(plan.stages[0].settings.env) == 96


def test_layers_are_ranges_however_they_are_written() -> None:
    split = current({"spec.pipeline": {"stages": 2, "layerSplit": [19, 11]}})
    listed = current(
        {"spec.pipeline": {"stageList": [{"layers": {"start": 0, "end": 19}}, {"layers": {"start": 19, "end": 30}}]}}
    )
    assert [stage.layers for stage in split.stages] == [(0, 19), (19, 30)]
    assert [stage.layers for stage in listed.stages] == [(0, 19), (19, 30)]
    assert [stage.layers for stage in current({}).stages] == [None, None]


def test_a_stage_outlives_its_head_by_its_grace() -> None:
    plan = current({"spec.engine.drainTimeout": 100})
    assert plan.grace_stage > plan.grace_head > 100


def test_every_name_is_a_dns_label_for_the_longest_resource() -> None:
    owner = Owner("ns", "n" * 40, "0d8a31cc-1b1e-4f4c-9c0f-3a3f1d3f9f11")
    pods = [names.head_pod(owner, 1999, 99999), names.stage_pod(owner, 1999, 63, 99999)]
    others = [names.peer_service(owner), names.service_account(owner), names.controller_revision(owner, "0123456789")]
    assert max(map(len, pods + others)) <= 63


def test_a_status_of_another_version_is_observed_anew() -> None:
    body = specs.resource({})
    body["status"] = {"phase": "Ready", "replicas": "many"}
    assert read_spec(body).status.phase is None
