"""How the suite installs and removes Stageline."""

from __future__ import annotations

from support.kube.helm import CHART, Helm
from user.kubectl import Kubectl, Object

RELEASE = "stageline"
SYSTEM = "stageline-system"
"""Namespace of the operator."""
INSTALL_SECONDS = 180


def install(helm: Helm, *values: str) -> None:
    """Installs or upgrades the operator, with ``values`` like "replicas=1"; returns when its pods are ready."""
    # Helm keeps the values of the last time where none are given.
    command = ["upgrade", "--install", "--reset-values", RELEASE, str(CHART)]
    command += ["--namespace", SYSTEM, "--create-namespace"]
    for value in values:
        command += ["--set", value]
    helm(*command, "--wait", f"--timeout={INSTALL_SECONDS}s")


def uninstall(helm: Helm) -> None:
    """Removes the operator; returns when its pods are gone."""
    helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", f"--timeout={INSTALL_SECONDS}s")


def pods(kubectl: Kubectl) -> list[Object]:
    """The operator's pods, those that end included."""
    return kubectl.list("pods", SYSTEM, "app.kubernetes.io/name=stageline-operator")
