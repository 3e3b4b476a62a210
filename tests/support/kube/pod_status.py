"""A pod's status as a kubelet would report it, built from what its containers are doing. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from support.kube.behaviour import Behaviour, Pod

MESSAGE_LIMIT = 2048
"""Bytes of a log's end that the kubelet keeps as termination message."""


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_ready(item: dict[str, Any]) -> bool:
    """Whether a Pod or a Node has the Ready condition."""
    conditions = item.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@dataclass
class Containers:
    """The state of a pod's containers, which start and end together; the first one's end has the details."""

    phase: str = "Pending"
    is_ready: bool = False
    restarts: int = 0
    waiting_reason: str = "ContainerCreating"
    waiting_message: str = ""
    started_at: str | None = None
    """While they run."""
    last_end: dict[str, Any] | None = None
    """The terminated state of the latest end."""
    pod_ip: str = ""

    @property
    def is_over(self) -> bool:
        """Whether the pod has reached a phase that it never leaves."""
        return self.phase in ("Succeeded", "Failed")

    def wait(self, reason: str, message: str) -> None:
        self.waiting_reason, self.waiting_message = reason, message

    def start(self) -> None:
        self.phase = "Running"
        self.started_at = now()

    def end(self, behaviour: Behaviour, exit_code: int) -> None:
        """The containers have ended; the pod's phase is the caller's to decide."""
        reason = behaviour.exit_reason or ("Completed" if exit_code == 0 else "Error")
        ended: dict[str, Any] = {"exitCode": exit_code, "reason": reason, "finishedAt": now()}
        if self.started_at is not None:
            ended["startedAt"] = self.started_at
        if behaviour.log and exit_code != 0:
            ended["message"] = behaviour.log.encode()[-MESSAGE_LIMIT:].decode(errors="ignore")
        self.last_end = ended
        self.started_at = None
        self.is_ready = False


def status_patch(pod: Pod, containers: Containers, host_ip: str) -> dict[str, Any]:
    """A strategic merge patch for the pod's status; conditions of others (PodScheduled) stay."""
    spec = pod["spec"]
    is_running = containers.started_at is not None
    status: dict[str, Any] = {
        "phase": containers.phase,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": pod.get("status", {}).get("startTime") or now(),
        "conditions": _conditions(pod, containers),
        "containerStatuses": [
            _container_status(each, containers, is_main=index == 0) for index, each in enumerate(spec["containers"])
        ],
    }
    if spec.get("initContainers"):
        has_run = is_running or containers.last_end is not None
        status["initContainerStatuses"] = [_init_status(each, has_run) for each in spec["initContainers"]]
    if containers.pod_ip:
        status |= {"podIP": containers.pod_ip, "podIPs": [{"ip": containers.pod_ip}]}
    return {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}


def _conditions(pod: Pod, containers: Containers) -> list[dict[str, Any]]:
    is_initialized = containers.started_at is not None or containers.last_end is not None
    values = {
        "PodReadyToStartContainers": bool(containers.pod_ip),
        "Initialized": is_initialized or not pod["spec"].get("initContainers"),
        "ContainersReady": containers.is_ready,
        "Ready": containers.is_ready,
    }
    known = {each["type"]: each for each in pod.get("status", {}).get("conditions", [])}
    return [_condition(name, value, known.get(name), containers) for name, value in values.items()]


def _condition(name: str, value: bool, known: dict[str, Any] | None, containers: Containers) -> dict[str, Any]:
    status = "True" if value else "False"
    changed = now() if known is None or known["status"] != status else known["lastTransitionTime"]
    condition = {"type": name, "status": status, "lastTransitionTime": changed}
    if not value and name in ("Ready", "ContainersReady"):
        condition["reason"] = "PodCompleted" if containers.phase == "Succeeded" else "ContainersNotReady"
    return condition


def _container_status(container: dict[str, Any], containers: Containers, is_main: bool) -> dict[str, Any]:
    end = containers.last_end
    if end is not None and not is_main:
        end = {**end, "message": ""}
    state: dict[str, Any]
    last_state: dict[str, Any] = {"terminated": end} if end is not None else {}
    if containers.started_at is not None:
        state = {"running": {"startedAt": containers.started_at}}
    elif containers.is_over and end is not None:
        state, last_state = {"terminated": end}, {}
    else:
        state = {"waiting": {"reason": containers.waiting_reason, "message": containers.waiting_message}}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": containers.is_ready,
        "started": containers.started_at is not None,
        "restartCount": containers.restarts,
        "state": state,
        "lastState": last_state,
    }


def _init_status(container: dict[str, Any], has_run: bool) -> dict[str, Any]:
    state: dict[str, Any] = {"waiting": {"reason": "PodInitializing"}}
    if has_run and container.get("restartPolicy") == "Always":
        # A sidecar: started before the others, and never at its end.
        state = {"running": {"startedAt": now()}}
    elif has_run:
        state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": has_run,
        "restartCount": 0,
        "state": state,
    }
