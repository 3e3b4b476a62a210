"""The chart on a real API server, by the real helm: install, upgrade, rollback, uninstall, and what stays."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.kube.api import KubeApi, Object
from support.kube.control_plane import ControlPlane
from support.kube.fake_nodes import FakeNodes
from support.kube.helm import CHART, Helm, HelmError
from support.kube.waiting import wait_until

PAGE = CHART.parents[1] / "docs" / "kubernetes.md"
EXAMPLE = CHART.parents[1] / "examples" / "cpu-demo.yaml"
CRD_NAME = "inferencedeployments.stageline.dev"
RELEASE_LIMIT = 512 * 1024


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of its own: a release owns the definition of the whole cluster."""
    with ControlPlane() as plane, FakeNodes(plane) as nodes:
        nodes.add_node("node-a")
        nodes.add_node("node-b")
        yield plane


@pytest.fixture
def helm(plane: ControlPlane, tmp_path: Path) -> Helm:
    return Helm(plane.helm, tmp_path, plane.kubeconfig)


@pytest.fixture
def home(plane: ControlPlane) -> Iterator[str]:
    """A namespace for a release; afterwards the cluster is without releases, definition and roles."""
    name = plane.create_namespace("home-")
    yield name
    plane.api.delete("namespaces", name)
    for resource in ("clusterroles", "clusterrolebindings"):
        for each in plane.api.list(resource, labels="app.kubernetes.io/name=stageline-operator"):
            plane.api.delete(resource, each["metadata"]["name"])
    if plane.api.find("customresourcedefinitions", CRD_NAME):
        plane.api.delete("customresourcedefinitions", CRD_NAME)
        wait_until(lambda: plane.api.find("customresourcedefinitions", CRD_NAME) is None, "the definition to go")


def install(helm: Helm, home: str, *arguments: str, name: str = "stageline", chart: Path = CHART) -> str:
    return helm("install", name, str(chart), f"--namespace={home}", "--wait", "--timeout=120s", *arguments)


def upgrade(helm: Helm, home: str, *arguments: str, chart: Path = CHART) -> str:
    return helm("upgrade", "stageline", str(chart), f"--namespace={home}", "--wait", "--timeout=120s", *arguments)


def apply_example(api: KubeApi, namespace: str) -> Object:
    body: Object = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"]["namespace"] = namespace
    return api.apply(body)


def is_served(api: KubeApi) -> bool:
    conditions = api.get("customresourcedefinitions", CRD_NAME).get("status", {}).get("conditions") or []
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def spec_fields(api: KubeApi) -> set[str]:
    """Fields of an InferenceDeployment's spec that the server knows."""
    definition = api.get("customresourcedefinitions", CRD_NAME)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return set(schema["properties"]["spec"]["properties"])


def chart_without_field(folder: Path, field: str) -> Path:
    """An older chart, whose definition does not have ``field`` of the spec yet."""
    chart = folder / "older"
    shutil.copytree(CHART, chart)
    file = chart / "files" / "inferencedeployments.yaml"
    definition: dict[str, Any] = yaml.safe_load(file.read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"][field]
    # Rules may speak of the field; an older definition would not have had them.
    spec["x-kubernetes-validations"] = [
        rule for rule in spec.get("x-kubernetes-validations", []) if f".{field}" not in rule["rule"]
    ]
    file.write_text(yaml.safe_dump(definition, sort_keys=False))
    return chart


def test_install_runs_two_operator_pods_under_the_restricted_standard_and_says_what_to_do_next(
    plane: ControlPlane, helm: Helm, home: str
) -> None:
    notes = install(helm, home)
    pods = plane.api.list("pods", home, labels="app.kubernetes.io/name=stageline-operator")
    assert len(pods) == 2
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2, "a lost node must not take both"
    assert "kubectl explain infdep.spec" in notes
    example = textwrap.dedent(notes.partition("<<END\n")[2].partition("    END\n")[0])
    plane.api.create(yaml.safe_load(example))
    plane.api.delete("inferencedeployments", "demo", "default")


def test_the_release_secret_is_small(plane: ControlPlane, helm: Helm, home: str) -> None:
    install(helm, home)
    (secret,) = plane.api.list("secrets", home, labels="owner=helm")
    assert len(secret["data"]["release"]) <= RELEASE_LIMIT


def test_upgrade_and_rollback_change_the_operator_and_leave_resources_alone(
    plane: ControlPlane, helm: Helm, home: str
) -> None:
    install(helm, home)
    resource = apply_example(plane.api, home)
    upgrade(helm, home, "--set=replicas=3,logLevel=debug")
    deployment = plane.api.get("deployments.apps", "stageline", home)
    assert deployment["spec"]["replicas"] == 3
    assert "--log-level=debug" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    helm("rollback", "stageline", "1", f"--namespace={home}", "--wait", "--timeout=120s")
    deployment = plane.api.get("deployments.apps", "stageline", home)
    assert deployment["spec"]["replicas"] == 2
    assert plane.api.get("inferencedeployments", resource["metadata"]["name"], home) == resource


def test_upgrade_brings_the_newer_definition_and_rollback_the_older_one(
    plane: ControlPlane, helm: Helm, home: str, tmp_path: Path
) -> None:
    older = chart_without_field(tmp_path, "monitoring")
    install(helm, home, chart=older)
    resource = apply_example(plane.api, home)
    assert "monitoring" not in spec_fields(plane.api)
    upgrade(helm, home)
    assert "monitoring" in spec_fields(plane.api)
    helm("rollback", "stageline", "1", f"--namespace={home}", "--wait", "--timeout=120s")
    assert "monitoring" not in spec_fields(plane.api)
    kept = plane.api.get("inferencedeployments", resource["metadata"]["name"], home)
    assert kept["metadata"]["uid"] == resource["metadata"]["uid"]


def test_uninstall_keeps_definition_and_resources_and_a_later_install_takes_them_up(
    plane: ControlPlane, helm: Helm, home: str
) -> None:
    install(helm, home)
    resource = apply_example(plane.api, home)
    helm("uninstall", "stageline", f"--namespace={home}", "--wait")
    assert not plane.api.list("deployments.apps", home)
    assert not plane.api.list("clusterroles", labels="app.kubernetes.io/name=stageline-operator")
    assert plane.api.get("inferencedeployments", resource["metadata"]["name"], home) == resource
    install(helm, home)
    assert plane.api.get("inferencedeployments", resource["metadata"]["name"], home) == resource


def test_a_second_release_is_told_how_to_share_the_definition(plane: ControlPlane, helm: Helm, home: str) -> None:
    install(helm, home)
    team = plane.create_namespace("team-")
    with pytest.raises(HelmError, match="crds.install=false") as refused:
        install(helm, team, name="second")
    assert f'release "stageline" in namespace "{home}"' in str(refused.value)
    install(helm, team, f"--set=crds.install=false,replicas=1,watchNamespaces={{{team}}}", name="second")
    helm("uninstall", "second", f"--namespace={team}", "--wait")
    assert plane.api.find("customresourcedefinitions", CRD_NAME), "the first release's definition stays"
    plane.api.delete("namespaces", team)


def test_a_definition_of_nobody_is_taken_up_as_the_message_says(plane: ControlPlane, helm: Helm, home: str) -> None:
    definition = yaml.safe_load((CHART / "files" / "inferencedeployments.yaml").read_text())
    plane.api.apply(definition, manager="by-hand")
    wait_until(lambda: is_served(plane.api), "the definition to be served")
    resource = apply_example(plane.api, home)
    with pytest.raises(HelmError, match="with --force-conflicts") as refused:
        install(helm, home)
    commands = [line.split() for line in str(refused.value).splitlines() if line.strip().startswith("kubectl")]
    assert len(commands) == 2
    for command in commands:
        plane.run_kubectl(*command[1:])
    install(helm, home, "--force-conflicts")
    upgrade(helm, home)
    assert plane.api.get("inferencedeployments", resource["metadata"]["name"], home) == resource


def test_the_operator_may_do_its_work_and_nothing_else(plane: ControlPlane, helm: Helm, home: str) -> None:
    other = plane.create_namespace("other-")
    install(helm, home, f"--set=watchNamespaces={{{home}}}")
    token = plane.service_account_client(home, "stageline")

    def may(verb: str, resource: str, namespace: str, group: str = "", subresource: str = "", name: str = "") -> bool:
        attributes = {"verb": verb, "resource": resource, "namespace": namespace, "group": group}
        attributes |= {"subresource": subresource, "name": name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = token.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        return bool(answer["status"]["allowed"])

    wait_until(lambda: may("create", "pods", home), "the role to be in force")
    assert may("patch", "inferencedeployments", home, "stageline.dev", "status")
    assert may("update", "inferencedeployments", home, "stageline.dev", "finalizers")
    assert may("update", "leases", home, "coordination.k8s.io", name="stageline")
    assert may("create", "secrets", home)
    refused = [
        may("get", "secrets", home),
        may("list", "secrets", home),
        may("get", "pods", home, subresource="log"),
        may("create", "pods", home, subresource="exec"),
        may("list", "nodes", ""),
        may("create", "pods", other),
        may("list", "inferencedeployments", other, "stageline.dev"),
        may("update", "inferencedeployments", home, "stageline.dev"),
        may("update", "leases", home, "coordination.k8s.io", name="someone-elses"),
    ]
    assert not any(refused), refused
    plane.api.delete("namespaces", other)


@contextmanager
def as_the_release_runs_it(plane: ControlPlane, home: str, folder: Path) -> Iterator[None]:
    """The operator as a process, with the arguments of its Deployment and the rights of its account."""
    pod = plane.api.get("deployments.apps", "stageline", home)["spec"]["template"]["spec"]
    values = {"$(POD_NAMESPACE)": home, "$(POD_UID)": "the-only-one", "--port=8080": "--port=0"}
    arguments = pod["containers"][0]["args"]
    for name, value in values.items():
        arguments = [argument.replace(name, value) for argument in arguments]
    kubeconfig = plane.service_account_kubeconfig(home, pod["serviceAccountName"])
    here = [f"--kubeconfig={kubeconfig}", "--host=127.0.0.1"]
    with (folder / "operator.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "stageline_operator", *arguments, *here], stderr=log)
        try:
            yield
        finally:
            process.terminate()
            code = process.wait(60)
    assert code == 0, (folder / "operator.log").read_text()


@pytest.mark.parametrize("scope", ["everywhere", "one namespace"])
def test_what_the_release_runs_serves_what_it_was_told_to(
    plane: ControlPlane, helm: Helm, home: str, tmp_path: Path, scope: str
) -> None:
    team, other = plane.create_namespace("team-"), plane.create_namespace("other-")
    install(helm, home, *([f"--set=watchNamespaces={{{team}}}"] if scope == "one namespace" else []))

    def phase(namespace: str) -> str:
        status: dict[str, Any] = plane.api.get("inferencedeployments", "demo", namespace).get("status", {})
        return str(status.get("phase", ""))

    with as_the_release_runs_it(plane, home, tmp_path):
        apply_example(plane.api, other)
        apply_example(plane.api, team)
        wait_until(lambda: phase(team) == "Ready", f"the resource in {team}")
        if scope == "everywhere":
            wait_until(lambda: phase(other) == "Ready", f"the resource in {other}")
        # Other refusals may come in the first seconds of a definition, until every part of the server knows it.
        assert "forbidden: User" not in (tmp_path / "operator.log").read_text()
    if scope == "one namespace":
        assert phase(other) == ""
    for namespace in (team, other):
        plane.api.delete("namespaces", namespace)


def page_commands() -> dict[str, list[str]]:
    """Commands of docs/kubernetes.md by the section that they are in."""
    sections = PAGE.read_text().split("\n## ")[1:]
    return {
        section.splitlines()[0]: [line.strip() for line in section.splitlines() if line.startswith("    ")]
        for section in sections
    }


def test_the_commands_of_the_page_install_serve_change_and_remove(
    plane: ControlPlane, home: str, tmp_path: Path
) -> None:
    commands = page_commands()
    folders = [str(plane.helm.parent), str(plane.kubectl.parent), "/usr/bin", "/bin"]
    environment = {"PATH": ":".join(folders), "HOME": str(tmp_path), "KUBECONFIG": str(plane.kubeconfig)}

    def do(section: str) -> str:
        said = ""
        for command in commands.pop(section):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=CHART.parents[1],
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            said += done.stdout
        return said

    def status() -> dict[str, Any]:
        found: dict[str, Any] = plane.api.get("inferencedeployments", "demo", "default").get("status", {})
        return found

    def settled(ready: str, image: str) -> bool:
        body = plane.api.get("inferencedeployments", "demo", "default")
        is_seen = body.get("status", {}).get("observedGeneration") == body["metadata"]["generation"]
        pods = plane.api.list("pods", "default", labels="stageline.dev/name=demo")
        images = {pod["spec"]["containers"][0]["image"] for pod in pods}
        return is_seen and status()["ready"] == ready and status()["phase"] == "Ready" and images == {image}

    # Nobody runs containers here: the operator of the Deployment is a process, which makes the Lease that is looked at.
    lease = commands["Install"].pop()
    do("Install")
    commands["the Lease"] = [lease]
    with as_the_release_runs_it(plane, "stageline-system", tmp_path):
        assert "Degraded" in do("Create and look")
        do("the Lease")
        do("Scale")
        wait_until(lambda: settled("2/2", "stageline/engine:0.1.0"), "two replicas")
        do("Roll")
        wait_until(lambda: settled("2/2", "stageline/engine:0.1.1"), "the new image")
        assert "demo-" in do("Roll back")
        wait_until(lambda: settled("2/2", "stageline/engine:0.1.0"), "the old image")
        do("Upgrade")
        assert settled("2/2", "stageline/engine:0.1.0")
        *removal, crd, lease_again, namespace = commands.pop("Uninstall")
        commands["Delete"], commands["Remove"] = removal[:1], removal[1:]
        do("Delete")
    do("Remove")
    assert plane.api.find("customresourcedefinitions", CRD_NAME)
    commands["Rest"] = [crd, lease_again, namespace]
    do("Rest")
    assert not plane.api.find("customresourcedefinitions", CRD_NAME)
    assert commands == {"The operator's metrics": []}
