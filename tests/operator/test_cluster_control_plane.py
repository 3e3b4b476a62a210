"""The control plane that operator tests run on: what it survives, whom it lets do what, what it writes down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from support.kube.api import ApiError, KubeApi
from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.restricted_pod import restricted_pod
from support.kube.waiting import wait_until


def config_map(name: str, namespace: str, **data: str) -> dict[str, object]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def test_the_api_server_is_back_with_its_data_after_a_restart(
    control_plane: ControlPlane, api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    before = api.create(config_map("kept", namespace, key="value"))
    with control_plane.api_stopped(), pytest.raises(httpx.TransportError):
        api.get("configmaps", "kept", namespace)
    assert api.get("configmaps", "kept", namespace) == before
    api.create(restricted_pod("after", namespace))
    wait_until(
        lambda: api.get("pods", "after", namespace)["status"]["phase"] == "Running",
        "scheduler, controller manager and fake kubelets to go on",
    )


def test_etcd_is_back_with_its_data_after_a_stop(control_plane: ControlPlane, api: KubeApi, namespace: str) -> None:
    before = api.create(config_map("kept", namespace, key="value"))
    with control_plane.etcd_stopped():
        wait_until(lambda: not api.is_ready(), "the API server to notice")
    assert api.get("configmaps", "kept", namespace) == before


def test_without_a_scheduler_pods_wait_for_it(
    control_plane: ControlPlane, api: KubeApi, nodes: FakeNodes, namespace: str
) -> None:
    with control_plane.scheduler_stopped():
        api.create(restricted_pod("patient", namespace))
        assert "nodeName" not in api.get("pods", "patient", namespace)["spec"]
    wait_until(lambda: api.get("pods", "patient", namespace)["spec"].get("nodeName"), "the scheduler to bind it")


def test_a_service_account_may_do_what_its_role_says_and_no_more(
    control_plane: ControlPlane, api: KubeApi, namespace: str
) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "reader", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    }
    api.create(role)
    api.create(
        {
            **role,
            "kind": "RoleBinding",
            "rules": None,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        }
    )
    kubeconfig = control_plane.service_account_kubeconfig(namespace, "default")

    def kubectl(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(control_plane.kubectl), f"--kubeconfig={kubeconfig}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    wait_until(lambda: kubectl("get", "configmaps").returncode == 0, "the role to be in force")
    refused = kubectl("get", "secrets")
    assert refused.returncode != 0
    assert f"system:serviceaccount:{namespace}:default" in refused.stderr


def test_impersonated_users_have_no_rights_of_the_impersonator(control_plane: ControlPlane, namespace: str) -> None:
    with pytest.raises(ApiError) as refused:
        control_plane.client("jane").list("pods", namespace)
    assert refused.value.reason == "Forbidden"
    assert "jane" in refused.value.message


def test_an_owner_reference_that_blocks_deletion_needs_the_right_to_its_owners_finalizers(
    control_plane: ControlPlane, api: KubeApi, namespace: str
) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "writer", "namespace": namespace},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}],
    }
    api.create(role)
    api.create(
        {
            **role,
            "kind": "RoleBinding",
            "rules": None,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "writer"},
            "subjects": [{"kind": "User", "name": f"writer-of-{namespace}"}],
        }
    )
    owner = api.create(restricted_pod("owner", namespace))
    reference = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "owner",
        "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": True,
    }
    child = config_map("child", namespace)
    child["metadata"] = {"name": "child", "namespace": namespace, "ownerReferences": [reference]}
    writer = control_plane.client(f"writer-of-{namespace}")

    def refusal() -> str:
        try:
            writer.create(child)
        except ApiError as error:
            return error.message
        return "allowed"

    # Until the role is in force, the refusal is another one.
    wait_until(lambda: "blockOwnerDeletion" in refusal(), "the plug-in's refusal")


def test_the_audit_log_tells_who_wrote_what(control_plane: ControlPlane, api: KubeApi, namespace: str) -> None:
    api.create(config_map("written", namespace, key="value"))

    def creations() -> list[object]:
        return [
            event["requestObject"]["data"]
            for event in control_plane.audit_events(user="admin", namespace=namespace)
            if event["verb"] == "create" and event["objectRef"]["resource"] == "configmaps"
        ]

    assert wait_until(creations, "the event to be written") == [{"key": "value"}]


def test_two_control_planes_run_side_by_side_and_leave_nothing(control_plane: ControlPlane, api: KubeApi) -> None:
    with ControlPlane() as other:
        name = other.create_namespace("only-here-")
        assert api.find("namespaces", name) is None
        pids = other.pids
    assert not other.folder.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def components_in(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(folder) in part for part in process.info["cmdline"] or [])
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_by_hand_it_ends_with_its_process_and_leaves_nothing(number: signal.Signals) -> None:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "support.kube", "up", "--nodes=1"],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        folder = Path(output.readline().partition("KUBECONFIG=")[2].split()[0]).parent
        assert len(components_in(folder)) >= 4
        process.send_signal(number)
        process.wait(60)
    wait_until(lambda: not folder.exists() and not components_in(folder), "all to go")
