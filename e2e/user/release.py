"""How the suite installs Stageline."""

from __future__ import annotations

from support.kube.helm import CHART, Helm

RELEASE = "stageline"
SYSTEM = "stageline-system"
"""Namespace of the operator."""
INSTALL_SECONDS = 180


def install(helm: Helm, *values: str) -> None:
    """Installs or upgrades the operator, with ``values`` like "replicas=1"; returns when its pods are ready."""
    command = ["upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM, "--create-namespace"]
    for value in values:
        command += ["--set", value]
    helm(*command, "--wait", f"--timeout={INSTALL_SECONDS}s")
