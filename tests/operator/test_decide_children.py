"""Objects besides pods: what comes back, what is left alone, whose names are never taken."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from stageline_operator.decide.actions import Ref
from stageline_operator.decide.children import differs
from stageline_operator.decide.observed import Child, Observed, Refusal, Stranger
from stageline_operator.decide.reconcile import decide
from stageline_operator.plan.build import build_plan
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import read_spec
from support.operator import pods as pod_states
from support.operator.acts import acts
from support.operator.server_objects import paths_of
from support.operator.simulation import Simulation, resource, settled

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "demo", "labels": {"a": "1"}},
    "spec": {
        "type": "ClusterIP",
        "selector": {"role": "head"},
        "ports": [{"name": "api", "port": 8000, "targetPort": "api", "protocol": "TCP"}],
    },
}


def _child(body: dict[str, Any], ours: frozenset[tuple[str, ...]] | None = None) -> Child:
    owned = paths_of(SERVICE) if ours is None else ours
    return Child("v1", "Service", "demo", "uid", "1", "owner", False, body, owned)


def _condition(simulation: Simulation, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in simulation.body["status"]["conditions"] if each["type"] == kind)
    return found


# -- what counts as a difference ---


def test_defaults_and_fields_of_others_are_no_difference() -> None:
    body = copy.deepcopy(SERVICE)
    body["spec"] |= {"clusterIP": "10.0.0.7", "sessionAffinity": "None"}
    body["spec"]["ports"][0]["nodePort"] = 30000
    body["spec"]["ports"].append({"name": "theirs", "port": 9, "targetPort": 9, "protocol": "TCP"})
    body["metadata"] |= {"annotations": {"theirs": "yes"}, "uid": "x"}
    body["metadata"]["labels"]["theirs"] = "yes"
    assert differs(SERVICE, _child(body)) == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.labels.a", "2"),
        ("spec.type", "NodePort"),
        ("spec.selector.role", None),
        ("spec.ports[0].port", 80),
        ("spec.ports[0].targetPort", 8000),
    ],
)
def test_a_changed_leaf_is_named(path: str, value: object) -> None:
    body = copy.deepcopy(SERVICE)
    *parents, last = path.replace("[0]", ".0").split(".")
    place: Any = body
    for step in parents:
        place = place[int(step) if step.isdecimal() else step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    assert differs(SERVICE, _child(body)) == path


def test_a_field_that_we_own_and_no_longer_want_is_a_difference() -> None:
    owned = paths_of(SERVICE) | {("metadata", "annotations", "example.com/lb")}
    assert differs(SERVICE, _child(SERVICE, owned)) == "metadata.annotations.example.com/lb"


def test_paths_into_lists_are_followed_by_their_keys() -> None:
    port = 'k:{"port":8000,"protocol":"TCP"}'
    owned = frozenset({("spec", "ports", port, "."), ("spec", "ports", port, "targetPort")})
    assert differs(SERVICE, _child(SERVICE, owned)) == ""
    old = 'k:{"port":80,"protocol":"TCP"}'
    assert old in differs(SERVICE, _child(SERVICE, owned | {("spec", "ports", old, "port")}))


@pytest.mark.parametrize(("ours", "theirs", "same"), [("1000m", "1", True), ("1Gi", "1024Mi", True), ("1", "2", False)])
def test_amounts_are_compared_as_amounts(ours: str, theirs: str, same: bool) -> None:
    desired = {"apiVersion": "v1", "kind": "PodGroup", "spec": {"minResources": {"cpu": ours}}}
    observed = {"spec": {"minResources": {"cpu": theirs}}}
    assert (differs(desired, _child(observed, frozenset())) == "") is same


# -- what comes back ---


def test_a_child_deleted_by_hand_comes_back() -> None:
    simulation = settled()
    for key in [key for key in simulation.children if key[0] != "ControllerRevision"]:
        del simulation.children[key]
        assert acts(simulation.reconcile()) == [f"apply {key[0]} {key[1]}"]


def test_a_child_that_is_being_deleted_is_made_anew_when_it_is_gone() -> None:
    simulation = settled()
    key = ("Service", "demo-peers")
    simulation.children[key] = replace(simulation.children[key], deleting=True)
    assert acts(simulation.reconcile()) == []
    del simulation.children[key]
    assert acts(simulation.reconcile()) == ["apply Service demo-peers"]


def test_a_field_changed_by_hand_comes_back_and_a_foreign_one_stays() -> None:
    simulation = settled()
    child = simulation.children["Service", "demo"]
    child.body["spec"]["ports"][0]["port"] = 81
    child.body["metadata"]["annotations"] = {"theirs": "yes"}
    decision = simulation.reconcile()
    assert acts(decision) == ["apply Service demo"]
    body = simulation.children["Service", "demo"].body
    assert body["spec"]["ports"][0]["port"] == 8000
    assert body["metadata"]["annotations"] == {"theirs": "yes"}
    assert acts(simulation.reconcile()) == []


def test_what_the_spec_no_longer_asks_for_goes() -> None:
    simulation = settled(network={"annotations": {"example.com/lb": "internal"}})
    simulation.cluster = Cluster(pod_monitor=True)
    simulation.is_dirty = True
    simulation.settle()
    assert ("PodMonitor", "demo") in simulation.children
    simulation.change(network={"networkPolicy": False}, monitoring={"podMonitor": "none"})
    assert acts(simulation.reconcile()) == [
        "apply Service demo",
        "delete NetworkPolicy demo-0",
        "delete PodMonitor demo",
    ]
    assert (
        "annotations" not in simulation.children["Service", "demo"].body["metadata"]
        or not simulation.children["Service", "demo"].body["metadata"]["annotations"]
    )


def test_a_child_that_somebody_changes_back_each_time_is_told_and_left() -> None:
    simulation = settled()
    simulation.children["Service", "demo"].body["spec"]["ports"][0]["port"] = 81
    observed = replace(simulation.observed(), contested=(Ref("v1", "Service", "demo"),))
    decision = decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now)
    assert acts(decision) == []
    for action in decision.actions:
        simulation.do(action)
    degraded = _condition(simulation, "Degraded")
    assert degraded["reason"] == "ChildContested"
    assert "spec.ports[0].port of Service demo" in degraded["message"]


def test_what_the_api_server_refuses_is_told_in_its_own_words_and_tried_again() -> None:
    simulation = Simulation(resource())
    refusal = Refusal(Ref("v1", "Pod", "demo-0-head-0"), "exceeded quota: pods=0")
    observed = replace(simulation.observed(), refusals=(refusal,))
    decision = decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now)
    assert "create Pod demo-0-head-0" in acts(decision)
    for action in decision.actions:
        simulation.do(action)
    assert _condition(simulation, "Degraded")["message"].endswith("refuses Pod demo-0-head-0: exceeded quota: pods=0")


def test_a_refusal_is_told_only_while_its_object_is_wanted() -> None:
    simulation = settled()
    refusal = Refusal(Ref("v1", "Pod", "demo-1-head-0"), "exceeded quota: pods=3")
    observed = replace(simulation.observed(), refusals=(refusal,))
    assert decide(read_spec(simulation.body), simulation.plan(), observed, simulation.now).actions == ()


# -- names that belong to others ---


@pytest.mark.parametrize(
    ("kind", "name"), [("ServiceAccount", "demo-pods"), ("Service", "demo-peers"), ("Service", "demo")]
)
def test_no_replica_is_made_while_a_shared_name_belongs_to_somebody_else(kind: str, name: str) -> None:
    simulation = Simulation(resource(), strangers=(Stranger(kind, name, "Deployment/web"),))
    simulation.settle()
    assert not simulation.pods
    degraded = _condition(simulation, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "NameTaken")
    wanted = (
        f"{kind} {name} of Deployment/web is not this resource's; delete or rename it, or give this resource another"
    )
    assert degraded["message"].startswith(wanted)
    progressing = _condition(simulation, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "NameTaken")
    simulation.strangers, simulation.is_dirty = (), True
    simulation.settle()
    assert simulation.body["status"]["phase"] == "Ready"


def test_running_pods_stay_when_a_shared_name_is_taken_later() -> None:
    simulation = settled()
    before = dict(simulation.pods)
    del simulation.children["Service", "demo"]
    simulation.strangers, simulation.is_dirty = (Stranger("Service", "demo", ""),), True
    simulation.settle()
    assert simulation.pods == before
    assert _condition(simulation, "Degraded")["reason"] == "NameTaken"


def test_no_old_replica_is_drained_for_a_new_one_that_cannot_be_made() -> None:
    simulation = settled(replicas=2, rollout={"maxSurge": 0, "maxUnavailable": 1})
    before = set(simulation.pods)
    del simulation.children["Service", "demo"]
    simulation.strangers = (Stranger("Service", "demo", ""),)
    simulation.change(image="example/stageline:2")
    simulation.settle()
    assert set(simulation.pods) == before


def test_a_pod_of_somebody_else_is_never_taken_over() -> None:
    simulation = Simulation(resource(), strangers=(Stranger("Pod", "demo-0-s1-0", ""),))
    simulation.settle()
    assert sorted(simulation.pods) == ["demo-0-head-0", "demo-0-s0-0"]
    assert "Pod demo-0-s1-0 is not this resource's" in _condition(simulation, "Degraded")["message"]
    assert _condition(simulation, "Progressing")["reason"] == "NameTaken"


def test_a_replica_number_that_nobody_gave_makes_no_replica() -> None:
    """A label of an object that outlived its replica is changed by hand, just before one more replica is wanted."""
    simulation = settled(replicas=2)
    body = simulation.children["PodDisruptionBudget", "demo-1"].body
    body["metadata"]["labels"]["stageline.dev/replica"] = "10000000000"
    simulation.change(replicas=3)
    simulation.settle()
    assert simulation.body["status"]["ready"] == "3/3"
    budgets = {name for kind, name in simulation.children if kind == "PodDisruptionBudget"}
    assert budgets == {"demo-0", "demo-1", "demo-2"}


# -- gang schedulers ---


def test_a_gang_scheduler_that_is_missing_is_told_and_no_pod_is_made() -> None:
    simulation = Simulation(resource(scheduling={"gang": "volcano"}))
    simulation.settle()
    assert not simulation.pods
    degraded = _condition(simulation, "Degraded")
    assert degraded["reason"] == "GangSchedulingUnavailable"
    assert "gang is volcano, which this cluster does not have" in degraded["message"]
    progressing = _condition(simulation, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "GangSchedulingUnavailable")
    simulation.cluster, simulation.is_dirty = Cluster(volcano=True), True
    simulation.settle()
    assert simulation.body["status"]["phase"] == "Ready"


def test_without_any_gang_scheduler_the_status_says_what_that_means() -> None:
    degraded = _condition(settled(), "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("False", "NoGangScheduler")
    assert "pods are placed one by one" in degraded["message"]


@pytest.mark.parametrize(
    ("scheduler", "cluster", "hint"),
    [
        ({}, Cluster(coscheduling=True), "for coscheduling, name its scheduler in spec.scheduling.schedulerName"),
        (
            {"schedulerName": "mine"},
            Cluster(volcano=True),
            "Volcano is here, and spec.scheduling.schedulerName is mine",
        ),
    ],
)
def test_a_gang_scheduler_that_would_not_see_the_pods_is_not_taken_and_not_claimed(
    scheduler: dict[str, str], cluster: Cluster, hint: str
) -> None:
    simulation = Simulation(resource(scheduling=scheduler), cluster=cluster)
    simulation.settle()
    assert simulation.body["status"]["plan"]["gang"] == "none"
    degraded = _condition(simulation, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("False", "NoGangScheduler")
    assert hint in degraded["message"]
    assert ("PodGroup", "demo-0") not in simulation.children
    assert simulation.bodies["demo-0-s1-0"]["spec"].get("schedulerName") == scheduler.get("schedulerName")


def test_a_replica_keeps_the_gang_scheduler_that_it_was_made_for() -> None:
    simulation = settled()
    simulation.cluster, simulation.is_dirty = Cluster(native_gang="v1beta1"), True
    simulation.settle()
    assert ("PodGroup", "demo-0") not in simulation.children
    del simulation.pods["demo-0-s1-0"]
    simulation.change(replicas=2)
    simulation.settle()
    assert "schedulingGroup" not in simulation.bodies["demo-0-s1-1"]["spec"]
    assert simulation.bodies["demo-1-s1-0"]["spec"]["schedulingGroup"] == {"podGroupName": "demo-1"}
    assert ("PodGroup", "demo-1") in simulation.children
    assert simulation.body["status"]["plan"]["gang"] == "native"


@pytest.mark.parametrize("asked", ["auto", "volcano"])
def test_a_replica_whose_gang_scheduler_was_uninstalled_is_healed_without_its_group_and_told(asked: str) -> None:
    simulation = Simulation(resource(scheduling={"gang": asked}), cluster=Cluster(volcano=True))
    simulation.settle()
    del simulation.children["PodGroup", "demo-0"]
    simulation.cluster = Cluster()
    simulation.set_pod(pod_states.failed(simulation.pods["demo-0-s1-0"], simulation.now, "Evicted"))
    assert acts(simulation.reconcile()) == ["create Pod demo-0-s1-1"]
    assert simulation.bodies["demo-0-s1-1"]["spec"]["schedulerName"] == "volcano"
    degraded = _condition(simulation, "Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "GangSchedulingUnavailable")
    assert "volcano, which this cluster does not have" in degraded["message"]


def test_the_group_is_there_before_the_pods_that_wait_for_it() -> None:
    simulation = Simulation(resource(), cluster=Cluster(native_gang="v1beta1"))
    order = acts(simulation.reconcile())
    assert order.index("apply PodGroup demo-0") < order.index("create Pod demo-0-head-0")


def test_a_deleted_resource_gets_nothing_new_and_lost_pods_are_still_removed() -> None:
    simulation = settled()
    simulation.stopped_nodes.add(simulation.pods["demo-0-s0-0"].node)
    simulation.body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    simulation.is_dirty = True
    simulation.settle()
    assert not simulation.pods
    assert not simulation.children
    assert simulation.body["status"]["phase"] == "Deleting"


def test_nothing_observed_and_nothing_wanted_needs_nothing() -> None:
    spec = read_spec(resource(replicas=0) | {"metadata": resource()["metadata"] | {"deletionTimestamp": "x"}})
    assert acts(decide(spec, build_plan(spec, {}), Observed(Cluster()), 0.0)) == []
