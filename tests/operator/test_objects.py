"""What every object of every rendered input must satisfy, whatever the resource asks for."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from stageline_operator.api import constants as c
from stageline_operator.api.quantity import parse
from stageline_operator.api.reserved import RESERVED_MOUNTS
from stageline_operator.objects.gang import resolve
from stageline_operator.objects.secret import group_secret
from stageline_operator.plan.cluster import Cluster
from stageline_operator.plan.spec import Owner

OUTPUTS = sorted((Path(__file__).parent / "data" / "output").glob("*.yaml"))
Body = dict[str, Any]


def _objects() -> list[Body]:
    return [body for file in OUTPUTS for body in yaml.safe_load_all(file.read_text())]


OBJECTS = _objects()
PODS = [body for body in OBJECTS if body["kind"] == "Pod"]


def _of_kind(kind: str) -> list[Body]:
    return [body for body in OBJECTS if body["kind"] == kind]


def _is_for_peers(service: Body) -> bool:
    return bool(service["spec"].get("clusterIP") == "None")


def _name(body: Body) -> str:
    return f"{body['kind']} {body['metadata']['name']}"


@pytest.mark.parametrize("body", OBJECTS, ids=_name)
def test_every_object_is_ours_and_says_so(body: Body) -> None:
    metadata = body["metadata"]
    assert metadata["namespace"] == "models"
    assert metadata["labels"][c.LABEL_MANAGED_BY] == c.FIELD_MANAGER
    (owner,) = metadata["ownerReferences"]
    assert owner["name"] == metadata["labels"][c.LABEL_NAME]
    assert owner["controller"] is owner["blockOwnerDeletion"] is True
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", metadata["name"])


@pytest.mark.parametrize("pod", PODS, ids=_name)
def test_every_pod_satisfies_the_restricted_standard_and_has_a_read_only_root(pod: Body) -> None:
    spec = pod["spec"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "initContainers"} & set(spec)
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    own = container["securityContext"]
    assert own["allowPrivilegeEscalation"] is own["privileged"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert own["readOnlyRootFilesystem"] is True
    assert not any("hostPort" in port for port in container["ports"])
    allowed = {"configMap", "csi", "emptyDir", "persistentVolumeClaim", "secret"}
    assert {key for volume in spec["volumes"] for key in volume} <= {"name", *allowed}


@pytest.mark.parametrize("pod", PODS, ids=_name)
def test_every_pod_can_write_where_programs_do_and_only_there(pod: Body) -> None:
    (container,) = pod["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert len(mounts) == len(container["volumeMounts"]), "two mounts at one path"
    writable = [path for path, mount in mounts.items() if not mount.get("readOnly")]
    variables = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert len(variables) == len(container["env"]), "a variable is set twice"
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME"):
        assert any(f"{variables[name]}/".startswith(f"{path}/") for path in writable), name
    shm = volumes[mounts["/dev/shm"]["name"]]["emptyDir"]
    assert shm["medium"] == "Memory"
    limit = container["resources"].get("limits", {}).get("memory")
    assert limit is None or parse(shm["sizeLimit"]) <= parse(limit) / 2, "/dev/shm counts in the memory limit"
    ours = [path for path, mount in mounts.items() if mount["name"].startswith("stageline-")]
    assert all(path.startswith(RESERVED_MOUNTS) for path in ours), "a person could hide it"


@pytest.mark.parametrize("pod", PODS, ids=_name)
def test_every_pod_says_how_it_ended_and_has_no_token(pod: Body) -> None:
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert spec["automountServiceAccountToken"] is False
    assert spec["subdomain"] == f"{pod['metadata']['labels'][c.LABEL_NAME]}-peers"
    assert all(len(spec[key]) <= 63 for key in ("hostname", "subdomain"))


def test_stages_outlive_their_head_and_heads_wait_before_they_stop() -> None:
    graces: dict[tuple[str, str], int] = {}
    for pod in PODS:
        labels, grace = pod["metadata"]["labels"], pod["spec"]["terminationGracePeriodSeconds"]
        graces[labels[c.LABEL_NAME], labels[c.LABEL_ROLE]] = grace
        is_head = labels[c.LABEL_ROLE] == c.ROLE_HEAD
        assert ("lifecycle" in pod["spec"]["containers"][0]) is is_head
    for (name, role), grace in graces.items():
        if role == c.ROLE_STAGE:
            assert grace > graces[name, c.ROLE_HEAD]


def test_only_heads_see_api_keys_and_serve_clients() -> None:
    for pod in PODS:
        is_head = pod["metadata"]["labels"][c.LABEL_ROLE] == c.ROLE_HEAD
        names = {volume["name"] for volume in pod["spec"]["volumes"]}
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert is_head or "stageline-api-keys" not in names
        assert ports == ({"api", "status", "control"} if is_head else {"status"})


def test_selectors_find_what_they_are_for() -> None:
    for service in _of_kind("Service"):
        selector = service["spec"]["selector"]
        mine = [pod for pod in PODS if pod["metadata"]["labels"][c.LABEL_NAME] == selector[c.LABEL_NAME]]
        found = [pod for pod in mine if selector.items() <= pod["metadata"]["labels"].items()]
        heads = [pod for pod in mine if pod["metadata"]["labels"][c.LABEL_ROLE] == c.ROLE_HEAD]
        assert found == (mine if _is_for_peers(service) else heads)
    for budget in _of_kind("PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        found = [pod for pod in PODS if selector.items() <= pod["metadata"]["labels"].items()]
        assert budget["spec"]["minAvailable"] == len(found) - 1


def test_clients_reach_ready_heads_alone_and_stages_find_theirs_before() -> None:
    """A head that loads, or that ends, would answer a share of a roll-out's requests with 503."""
    publishes = {
        (_is_for_peers(each), each["spec"].get("publishNotReadyAddresses", False)) for each in _of_kind("Service")
    }
    assert publishes == {(True, True), (False, False)}


def test_the_group_counts_every_pod_of_its_replica() -> None:
    groups = _of_kind("PodGroup")
    assert {group["apiVersion"].partition("/")[0] for group in groups} == {
        "scheduling.k8s.io",
        "scheduling.volcano.sh",
        "scheduling.x-k8s.io",
    }
    for group in groups:
        spec = group["spec"]
        count = spec["schedulingPolicy"]["gang"]["minCount"] if "schedulingPolicy" in spec else spec["minMember"]
        labels = group["metadata"]["labels"]
        key = {name: labels[name] for name in (c.LABEL_NAME, c.LABEL_REPLICA)}
        assert count == sum(key.items() <= pod["metadata"]["labels"].items() for pod in PODS)


@pytest.mark.parametrize(
    ("asked", "cluster", "scheduler", "name", "is_here"),
    [
        ("auto", Cluster(), None, "none", True),
        ("auto", Cluster(kueue=True), None, "none", True),
        ("auto", Cluster(coscheduling=True), None, "none", True),
        ("auto", Cluster(coscheduling=True), "mine", "coscheduling", True),
        ("auto", Cluster(volcano=True, coscheduling=True), None, "volcano", True),
        ("auto", Cluster(volcano=True, coscheduling=True), "volcano", "volcano", True),
        ("auto", Cluster(volcano=True, coscheduling=True), "mine", "coscheduling", True),
        ("auto", Cluster(volcano=True), "mine", "none", True),
        ("auto", Cluster(native_gang="v1beta1", volcano=True), None, "native", True),
        ("none", Cluster(volcano=True), None, "none", True),
        ("kueue", Cluster(kueue=True), None, "kueue", True),
        ("volcano", Cluster(native_gang="v1beta1"), None, "volcano", False),
    ],
)
def test_the_gang_scheduler_is_the_one_asked_for_or_the_first_that_would_see_the_pods(
    asked: str, cluster: Cluster, scheduler: str | None, name: str, is_here: bool
) -> None:
    gang = resolve(asked, cluster, scheduler)
    assert (gang.name, gang.is_here) == (name, is_here)


def test_the_group_secret_has_fresh_keys_each_time_and_cannot_be_changed() -> None:
    counter = iter(range(256))
    secret = group_secret(Owner("ns", "demo", "uid"), lambda size: bytes([next(counter)] * size))
    keys = {key: base64.b64decode(value) for key, value in secret["data"].items()}
    assert secret["immutable"] is True
    assert len(keys[c.SECRET_KEY_CURVE]) == 32
    assert re.fullmatch(rb"[0-9a-f]{64}", keys[c.SECRET_KEY_RAY_TOKEN])
    assert bytes.fromhex(keys[c.SECRET_KEY_RAY_TOKEN].decode()) != keys[c.SECRET_KEY_CURVE]
