"""Pods of a case's own, as strict as those that the operator makes: not root, nothing writable but /tmp."""

from __future__ import annotations

import json

from user.kubectl import Kubectl

PYTHON = ("python3", "-u", "-c")


def start(kubectl: Kubectl, namespace: str, name: str, image: str, *command: str, node: str | None = None) -> None:
    """Makes a pod with the label ``app=NAME`` that runs ``command`` once, on ``node`` if that is given."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": command,
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
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


def output(kubectl: Kubectl, namespace: str, image: str, *command: str, seconds: int = 240) -> str:
    """What ``command`` prints in a pod of ``image``.

    Raises:
        AssertionError: it does not end well within ``seconds``; the text is what it printed.
    """
    name = "once"
    start(kubectl, namespace, name, image, *command)
    ended = ["--for=jsonpath={.status.containerStatuses[0].state.terminated}", f"--timeout={seconds}s"]
    kubectl("wait", "-n", namespace, "pod", name, *ended)
    said = kubectl("logs", "-n", namespace, name)
    [pod] = kubectl.list("pods", namespace, f"app={name}")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0, said
    kubectl("delete", "-n", namespace, "pod", name)
    return said
