"""What is kept of a failed case: every object of its namespace, events, logs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from user.kubectl import Kubectl, KubectlError

# No Secrets: what is kept is shown around.
KINDS = (
    "pods",
    "services",
    "endpointslices",
    "configmaps",
    "serviceaccounts",
    "poddisruptionbudgets",
    "networkpolicies",
    "controllerrevisions",
    "deployments",
    "leases",
)
OWN_KIND = "inferencedeployments.stageline.dev"


def keep(kubectl: Kubectl, namespaces: list[str], folder: Path) -> None:
    """Writes into ``folder``, which is made, one file for each kind of object and each container's log."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nodes.txt").write_text(_said(kubectl, "describe", "nodes"))
    for namespace in namespaces:
        events = _said(kubectl, "events", "-n", namespace)
        (folder / f"{namespace}-events.txt").write_text(events)
        for kind in (*KINDS, OWN_KIND):
            (folder / f"{namespace}-{kind}.yaml").write_text(_said(kubectl, "get", kind, "-n", namespace, "-o", "yaml"))
        with suppress(KubectlError):
            for pod in kubectl.list("pods", namespace):
                _keep_logs(kubectl, namespace, pod["metadata"]["name"], folder)


def _keep_logs(kubectl: Kubectl, namespace: str, pod: str, folder: Path) -> None:
    for name, flags in (("log", []), ("log-before", ["--previous"])):
        text = _said(kubectl, "logs", "-n", namespace, pod, "--all-containers", *flags)
        (folder / f"{namespace}-{pod}.{name}").write_text(text)


def _said(kubectl: Kubectl, *arguments: str) -> str:
    """Output, or why there is none: a failure must not hide the one that is looked into."""
    try:
        return kubectl(*arguments)
    except KubectlError as error:
        return f"{error}\n"
