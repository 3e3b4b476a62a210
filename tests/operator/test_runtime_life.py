"""The operator against a real API server: create, scale, change, heal, delete; and nothing is written for nothing."""

from __future__ import annotations

import pytest

from stageline_operator.api.constants import LABEL_ROLE, ROLE_HEAD
from support.kube.api import Object
from support.kube.behaviour import Behaviour
from support.kube.fake_nodes import FakeNodes
from support.running.account import ACCOUNT
from support.running.scene import Scene, demo
from support.running.survival import settled_writes


def conditions(body: Object) -> dict[str, str]:
    return {each["type"]: each["status"] for each in body["status"]["conditions"]}


def test_an_applied_resource_becomes_ready_with_all_its_children(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo())
    body = scene.wait_phase("Ready")
    assert conditions(body) == {"Available": "True", "Progressing": "False", "Degraded": "False"}
    assert scene.children() == {
        "pods": {"demo-0-head-0", "demo-0-s0-0", "demo-0-s1-0"},
        "services": {"demo", "demo-peers"},
        "serviceaccounts": {"demo-pods"},
        "poddisruptionbudgets": {"demo-0"},
        "networkpolicies": {"demo-0"},
        "controllerrevisions.apps": {f"demo-{body['status']['currentRevision']}"},
        "secrets": {f"demo-{body['metadata']['uid']}"},
    }


def test_scaling_goes_by_whole_replicas_newest_first(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    scene.change(replicas=3)
    scene.wait(lambda: scene.resource()["status"].get("ready") == "3/3", "three ready replicas")
    assert len(scene.pods()) == 9
    scene.change(replicas=1)
    scene.wait_phase("Ready")
    scene.wait(lambda: len(scene.pods()) == 3, "two replicas to go")
    assert scene.names("pods") == {"demo-0-head-0", "demo-0-s0-0", "demo-0-s1-0"}
    scene.wait(lambda: scene.names("poddisruptionbudgets") == {"demo-0"}, "their other objects to go")


def test_a_change_of_the_pods_rolls_by_whole_replicas(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo())
    before = scene.wait_phase("Ready")["status"]["currentRevision"]
    scene.change(image="stageline/engine:0.2.0")
    after = scene.wait_phase("Ready")["status"]["currentRevision"]
    assert after != before
    scene.wait(lambda: len(scene.pods()) == 3, "the old replica to go")
    assert {pod["spec"]["containers"][0]["image"] for pod in scene.pods()} == {"stageline/engine:0.2.0"}


def test_a_pod_that_ended_is_replaced_and_its_neighbours_stay(scene: Scene, nodes: FakeNodes) -> None:
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in scene.pods()}
    scene.api.delete("pods", "demo-0-s1-0", scene.namespace)
    scene.wait(lambda: "demo-0-s1-1" in scene.names("pods"), "the next incarnation")
    scene.wait_phase("Ready")
    after = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in scene.pods()}
    assert {name: after.get(name) for name in ("demo-0-head-0", "demo-0-s0-0")} == {
        name: before[name] for name in ("demo-0-head-0", "demo-0-s0-0")
    }


def test_a_failed_pod_is_told_of_with_its_exit_code_and_last_words(scene: Scene, nodes: FakeNodes) -> None:
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    nodes.end_containers(scene.namespace, "demo-0-s0-0", Behaviour(exit_code=75, log="the peer went away"))
    failure = scene.wait(lambda: scene.resource()["status"].get("lastFailure"), "the failure to be told of")
    assert (failure["cause"], failure["exitCode"], failure["pod"]) == ("Communication", 75, "demo-0-s0-0")
    assert "the peer went away" in failure["logTail"]
    scene.wait_phase("Ready")


def test_children_that_are_deleted_or_edited_by_hand_come_back(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    for kind, name in (("services", "demo"), ("poddisruptionbudgets", "demo-0"), ("networkpolicies", "demo-0")):
        scene.api.delete(kind, name, scene.namespace)
        scene.wait_back(kind, name)
    scene.api.patch("poddisruptionbudgets", "demo-0", {"spec": {"minAvailable": 1}}, scene.namespace)

    def wanted() -> bool:
        spec = scene.api.get("poddisruptionbudgets", "demo-0", scene.namespace)["spec"]
        return bool(spec["minAvailable"] == 2)

    scene.wait(wanted, "the edited field to come back")


def test_a_child_whose_label_is_taken_away_gets_it_back(scene: Scene) -> None:
    """The label is what the watch selects by: without it the child is out of sight."""
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    gone = {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}
    scene.api.patch("services", "demo", gone, scene.namespace)
    scene.wait(lambda: "demo" in scene.names("services"), "the label to come back")


@pytest.mark.parametrize(
    "label", ["app.kubernetes.io/managed-by", "stageline.dev/replica", "stageline.dev/incarnation"]
)
def test_a_pod_whose_label_is_changed_is_replaced_and_does_not_stay(scene: Scene, label: str) -> None:
    """The first of them takes the pod out of the watch's sight."""
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    scene.api.patch("pods", "demo-0-s1-0", {"metadata": {"labels": {label: "1000000000000"}}}, scene.namespace)
    scene.wait(lambda: "demo-0-s1-1" in scene.names("pods"), "the next incarnation")
    scene.wait(
        lambda: scene.api.find("pods", "demo-0-s1-0", scene.namespace) is None, "the pod with the changed label to go"
    )
    scene.wait_phase("Ready")


def test_fields_of_others_stay(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    scene.api.patch("services", "demo", {"metadata": {"annotations": {"example.com/team": "search"}}}, scene.namespace)
    scene.api.patch("services", "demo", {"spec": {"selector": {"stageline.dev/name": "other"}}}, scene.namespace)

    def selector_is_back() -> bool:
        body = scene.api.get("services", "demo", scene.namespace)
        return bool(body["spec"]["selector"]["stageline.dev/name"] == "demo")

    scene.wait(selector_is_back, "our field to come back")
    service = scene.api.get("services", "demo", scene.namespace)
    assert service["metadata"]["annotations"]["example.com/team"] == "search"


def test_a_name_of_somebody_else_is_never_taken_over(scene: Scene) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo", "namespace": scene.namespace},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "theirs"}},
    }
    made = scene.api.create(theirs)
    scene.run_operator()
    scene.apply(demo())
    status = scene.wait_phase("Degraded")["status"]
    degraded = next(each for each in status["conditions"] if each["type"] == "Degraded")
    assert degraded["reason"] == "NameTaken"
    assert "Service demo" in degraded["message"] and "delete or rename it" in degraded["message"]
    assert scene.api.get("services", "demo", scene.namespace)["metadata"] == made["metadata"]


def test_a_deleted_resource_leaves_nothing(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo(replicas=2))
    scene.wait_phase("Ready")
    scene.delete()
    scene.wait_gone()
    scene.wait(lambda: not any(scene.children().values()), "everything to go")


def test_foreground_deletion_leaves_nothing_ten_seconds_after_the_last_pod_ended(
    scene: Scene, nodes: FakeNodes
) -> None:
    """Also when heads outlive their stages, and in the middle of a roll-out."""

    def slow_to_stop(pod: Object, restarts: int) -> Behaviour:
        return Behaviour(stops_after=3.0 if pod["metadata"]["labels"][LABEL_ROLE] == ROLE_HEAD else 1.0)

    nodes.play(scene.namespace, slow_to_stop)
    scene.run_operator()
    scene.apply(demo(replicas=2))
    scene.wait_phase("Ready")
    scene.change(image="stageline/engine:0.2.0")
    scene.wait(lambda: len(scene.pods()) > 6, "a replica of the new revision")
    scene.delete()
    scene.wait(lambda: not scene.pods(), "the last pod to end")

    def is_all_gone() -> bool:
        is_gone = scene.api.find("inferencedeployments", "demo", scene.namespace) is None
        return is_gone and not any(scene.children().values())

    scene.wait(is_all_gone, "everything to go", patience=10)


def test_nothing_is_written_for_nothing(scene: Scene) -> None:
    operator = scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    before = settled_writes(scene)
    looks = operator.metric("stageline_operator_reconcile_seconds_count")
    scene.api.patch("inferencedeployments", "demo", {"metadata": {"labels": {"team": "search"}}}, scene.namespace)
    scene.wait(lambda: operator.metric("stageline_operator_reconcile_seconds_count") > looks, "a look at the change")
    scene.apply(demo())
    operator.stop()
    operator.start()
    operator.wait_leading()
    scene.wait(lambda: operator.metric("stageline_operator_reconcile_seconds_count") >= 1, "a look after the restart")
    assert settled_writes(scene) == before, scene.writes()[before:]


def test_the_operator_has_no_right_that_reads_secrets(scene: Scene) -> None:
    scene.run_operator()
    scene.apply(demo())
    scene.wait_phase("Ready")
    events = scene.plane.audit_events(user=f"system:serviceaccount:{scene.namespace}:{ACCOUNT}")
    refused = [event for event in events if event.get("responseStatus", {}).get("code") == 403]
    assert refused == []
    secrets = {event["verb"] for event in events if event.get("objectRef", {}).get("resource") == "secrets"}
    assert secrets == {"create"}
