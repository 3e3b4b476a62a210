"""Fake nodes and kubelets: what a test says becomes what the API server shows, by way of the real scheduler."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.kube.api import ApiError, KubeApi
from support.kube.behaviour import Behaviour, Pod
from support.kube.control_plane import ControlPlane
from support.kube.fake_node import NodeShape
from support.kube.fake_nodes import FakeNodes
from support.kube.pod_status import is_ready
from support.kube.restricted_pod import restricted_pod
from support.kube.waiting import wait_until

TOLERATES_LOSS_FOR_A_SECOND = [
    {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}
    for key in ("unreachable", "not-ready")
]


def wait_ready(api: KubeApi, namespace: str, name: str) -> Pod:
    wait_until(lambda: is_ready(api.get("pods", name, namespace)), f"pod {name} to be Ready")
    return api.get("pods", name, namespace)


def main_container(pod: Pod) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses", [{}])
    first: dict[str, Any] = statuses[0]
    return first


def test_the_real_scheduler_binds_a_pod_and_its_node_makes_it_ready(
    api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    api.create(restricted_pod("one", namespace))
    pod = wait_ready(api, namespace, "one")
    assert pod["spec"]["nodeName"] in {node["metadata"]["name"] for node in api.list("nodes")}
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"].startswith("127.")
    assert main_container(pod)["state"].keys() == {"running"}
    assert {each["type"] for each in pod["status"]["conditions"]} >= {"PodScheduled", "Ready", "ContainersReady"}


def test_a_pod_that_no_node_can_hold_stays_pending(api: KubeApi, nodes: FakeNodes, namespace: str) -> None:
    pod = restricted_pod("huge", namespace)
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1000"}}
    api.create(pod)

    def is_refused() -> bool:
        conditions = api.get("pods", "huge", namespace)["status"].get("conditions", [])
        return any(each.get("reason") == "Unschedulable" for each in conditions)

    wait_until(is_refused, "the scheduler's verdict")
    assert "nodeName" not in api.get("pods", "huge", namespace)["spec"]


def test_a_deleted_pod_goes_when_its_containers_have_ended(api: KubeApi, nodes: FakeNodes, namespace: str) -> None:
    nodes.play(namespace, Behaviour(stops_after=3600))
    api.create(restricted_pod("slow", namespace, terminationGracePeriodSeconds=3600))
    wait_ready(api, namespace, "slow")
    api.delete("pods", "slow", namespace)
    assert "deletionTimestamp" in api.get("pods", "slow", namespace)["metadata"]
    nodes.end_containers(namespace, "slow", Behaviour(exit_code=0))
    wait_until(lambda: api.find("pods", "slow", namespace) is None, "the pod to go")


def test_a_grace_period_bounds_the_end_of_a_pod(api: KubeApi, nodes: FakeNodes, namespace: str) -> None:
    nodes.play(namespace, Behaviour(stops_after=3600))
    api.create(restricted_pod("stubborn", namespace, terminationGracePeriodSeconds=1))
    wait_ready(api, namespace, "stubborn")
    api.delete("pods", "stubborn", namespace)
    wait_until(lambda: api.find("pods", "stubborn", namespace) is None, "the pod to go")


def test_a_container_that_ends_tells_its_exit_code_and_log_and_is_started_again(
    api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    first = Behaviour(ends_after=0, exit_code=137, exit_reason="OOMKilled", log="allocating 80 GiB")
    nodes.play(namespace, lambda pod, restarts: first if restarts == 0 else Behaviour())
    api.create(restricted_pod("again", namespace))
    wait_until(lambda: main_container(api.get("pods", "again", namespace)).get("restartCount"), "a restart")
    pod = wait_ready(api, namespace, "again")
    ended = main_container(pod)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (137, "OOMKilled", "allocating 80 GiB")
    assert main_container(pod)["restartCount"] == 1


def test_a_pod_that_is_never_restarted_fails(api: KubeApi, nodes: FakeNodes, namespace: str) -> None:
    api.create(restricted_pod("once", namespace, restartPolicy="Never"))
    wait_ready(api, namespace, "once")
    nodes.end_containers(namespace, "once", Behaviour(exit_code=3, log="no such model"))
    wait_until(lambda: api.get("pods", "once", namespace)["status"]["phase"] == "Failed", "the pod to fail")
    ended = main_container(api.get("pods", "once", namespace))["state"]["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, "no such model")
    api.delete("pods", "once", namespace)
    wait_until(lambda: api.find("pods", "once", namespace) is None, "the failed pod to go")


def test_readiness_moves_as_a_test_says(api: KubeApi, nodes: FakeNodes, namespace: str) -> None:
    nodes.play(namespace, Behaviour(ready_after=None))
    api.create(restricted_pod("loading", namespace))
    wait_until(lambda: main_container(api.get("pods", "loading", namespace)).get("started"), "the container to run")
    assert not is_ready(api.get("pods", "loading", namespace))
    nodes.set_ready(namespace, "loading", True)
    assert is_ready(api.get("pods", "loading", namespace))
    nodes.set_ready(namespace, "loading", False)
    assert not is_ready(api.get("pods", "loading", namespace))


def test_a_container_that_cannot_start_says_why(api: KubeApi, nodes: FakeNodes, namespace: str) -> None:
    nodes.play(namespace, Behaviour(starts_after=None, waiting_reason="ErrImagePull", waiting_message="no such image"))
    api.create(restricted_pod("unpulled", namespace))

    def waiting() -> Any:
        return main_container(api.get("pods", "unpulled", namespace)).get("state", {}).get("waiting")

    assert wait_until(waiting, "the reason") == {"reason": "ErrImagePull", "message": "no such image"}
    api.delete("pods", "unpulled", namespace)
    wait_until(lambda: api.find("pods", "unpulled", namespace) is None, "the pod to go")


def test_a_running_pod_answers_for_its_state_and_an_ended_one_refuses(
    api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    nodes.answer_state(namespace, lambda pod: {"name": pod["metadata"]["name"]})
    api.create(restricted_pod("head", namespace, restartPolicy="Never"))
    url = f"http://{wait_ready(api, namespace, 'head')['status']['podIP']}:8081/state"
    assert httpx.get(url, trust_env=False).json() == {"name": "head"}
    nodes.answer_state(namespace, lambda pod: None)
    assert httpx.get(url, trust_env=False).status_code == httpx.codes.SERVICE_UNAVAILABLE
    nodes.end_containers(namespace, "head")
    wait_until(lambda: api.get("pods", "head", namespace)["status"]["phase"] == "Failed", "the pod to end")
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)


def test_the_pods_of_a_lost_node_are_evicted_and_hang_until_the_node_is_back(
    api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    taint = {"key": "test", "value": namespace, "effect": "NoSchedule"}
    nodes.add_node(f"lost-{namespace}", NodeShape(labels={"test": namespace}, taints=[taint]))
    tolerations = [{"key": "test", "operator": "Exists"}, *TOLERATES_LOSS_FOR_A_SECOND]
    api.create(restricted_pod("far", namespace, nodeSelector={"test": namespace}, tolerations=tolerations))
    url = f"http://{wait_ready(api, namespace, 'far')['status']['podIP']}:8081/state"

    nodes.lose_node(f"lost-{namespace}")
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    wait_until(
        lambda: "deletionTimestamp" in api.get("pods", "far", namespace)["metadata"], "the controller manager to evict"
    )
    assert not is_ready(api.get("pods", "far", namespace)), "a lost node's pods are marked not ready"

    nodes.recover_node(f"lost-{namespace}")
    wait_until(lambda: api.find("pods", "far", namespace) is None, "the pod to end on the node that is back")
    nodes.remove_node(f"lost-{namespace}")


def test_a_namespace_refuses_pods_below_the_restricted_standard(
    control_plane: ControlPlane, api: KubeApi, namespace: str
) -> None:
    with pytest.raises(ApiError) as refused:
        api.create(restricted_pod("lax", namespace, securityContext={}))
    assert "restricted" in refused.value.message


def test_what_was_taken_for_lost_while_no_api_server_was_there_is_soon_in_order_again(
    control_plane: ControlPlane, api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    api.create(restricted_pod("kept", namespace))
    before = wait_ready(api, namespace, "kept")
    with control_plane.api_frozen():
        wait_until(
            lambda: nodes.seconds_silent() > control_plane.settings.node_grace_seconds, "heartbeats to be missed"
        )
    wait_until(
        lambda: all(is_ready(node) and not node["spec"].get("taints") for node in api.list("nodes")),
        "the nodes to be Ready",
    )
    assert wait_ready(api, namespace, "kept")["metadata"]["uid"] == before["metadata"]["uid"]
