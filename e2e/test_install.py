"""What a user has after `helm install` and `kubectl apply`, before any engine has said a word."""

from __future__ import annotations

from support.kube.waiting import wait_until
from user.kubectl import Kubectl, Object
from user.release import SYSTEM
from user.resources import apply_example


def test_the_operator_runs_on_the_cluster_and_is_ready(kubectl: Kubectl, stageline: None) -> None:
    pods = kubectl.list("pods", SYSTEM, "app.kubernetes.io/name=stageline-operator")
    assert [_is_ready(pod) for pod in pods] == [True, True]


def test_applying_the_cpu_example_makes_a_head_and_two_stages_on_nodes(
    kubectl: Kubectl, stageline: None, namespace: str
) -> None:
    apply_example(kubectl, namespace, "cpu-demo.yaml")

    def started() -> list[Object]:
        pods = kubectl.list("pods", namespace, "stageline.dev/name=demo")
        return [pod for pod in pods if pod["status"].get("containerStatuses")] if len(pods) == 3 else []

    pods = wait_until(lambda: len(started()) == 3 and started(), "containers in all three pods", patience=240)
    assert pods
    roles = sorted(pod["metadata"]["labels"]["stageline.dev/role"] for pod in pods)
    assert roles == ["head", "stage", "stage"]


def _is_ready(pod: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])
