"""Pods of a case's own, as strict as those that the operator makes: not root, nothing writable but /tmp."""

from __future__ import annotations

import json
from collections.abc import Mapping

from user.kubectl import Kubectl

PYTHON = ("python3", "-u", "-c")
SECONDS = 240
"""A command that takes longer hangs; the first one of an image may have to pull it."""


def start(
    kubectl: Kubectl,
    namespace: str,
    name: str,
    image: str,
    *command: str,
    node: str | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Makes a pod with the label ``app=NAME`` that runs ``command`` once, on ``node`` if that is given.

    ``files`` are names of ConfigMaps by the folders in which their files are to be.
    """
    mounted = [(f"files-{index}", *each) for index, each in enumerate((files or {}).items())]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                *({"name": volume, "configMap": {"name": map_}} for volume, _, map_ in mounted),
            ],
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": command,
                    "volumeMounts": [
                        {"name": "tmp", "mountPath": "/tmp"},
                        *({"name": volume, "mountPath": folder} for volume, folder, _ in mounted),
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            **({"nodeName": node} if node else {}),
        },
    }
    kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(pod))


def output(kubectl: Kubectl, namespace: str, image: str, *command: str) -> str:
    """What ``command`` prints in a pod of ``image``.

    Raises:
        AssertionError: it does not end well; the text is what it printed.
    """
    code, said = outcome(kubectl, namespace, image, *command)
    assert code == 0, said
    return said


def outcome(
    kubectl: Kubectl, namespace: str, image: str, *command: str, files: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code of ``command`` in a pod of ``image``, and what it prints; ``files`` as in :func:`start`."""
    name = "once"
    start(kubectl, namespace, name, image, *command, files=files)
    ended = ["--for=jsonpath={.status.containerStatuses[0].state.terminated}", f"--timeout={SECONDS}s"]
    kubectl("wait", "-n", namespace, "pod", name, *ended)
    said = kubectl("logs", "-n", namespace, name)
    [pod] = kubectl.list("pods", namespace, f"app={name}")
    kubectl("delete", "-n", namespace, "pod", name)
    code: int = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    return code, said
