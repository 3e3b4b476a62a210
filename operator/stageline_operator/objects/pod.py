"""The pods of a replica: its head, and one for each pipeline stage.

Both satisfy the restricted Pod Security Standard, and go beyond it: read-only root file system, no token.
"""

from __future__ import annotations

from typing import Final

from stageline_operator.api import constants as c
from stageline_operator.api.pod_settings import PodSettings
from stageline_operator.objects.gang import Gang, mark_pod
from stageline_operator.objects.metadata import Body, metadata, pod_labels
from stageline_operator.objects.placement import place
from stageline_operator.objects.resources import container_resources
from stageline_operator.objects.volumes import KEYS_FOLDER, environment, places
from stageline_operator.plan import names
from stageline_operator.plan.build import PRE_STOP_SECONDS
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner

POD: Final = ("v1", "Pod")
DEFAULT_ID: Final = 65532
"""User and group of all processes, as in distroless images; not root."""
START_PROBES: Final = 150
"""Failed start probes, one every 2 s, until the kubelet restarts a container: for imports from a cold disk. What comes
after, loading weights, is no part of being alive."""

LOG_FORMAT: Final = "json"
"""What collects the logs of pods is a machine."""


def head_pod(plan: RevisionPlan, owner: Owner, replica: int, incarnation: int, epoch: int, gang: Gang) -> Body:
    """The pod of a replica's head: API server and engine core."""
    ports = {
        c.PORT_NAME_API: c.PORT_API,
        c.PORT_NAME_STATUS: c.PORT_STATUS,
        c.PORT_NAME_CONTROL: c.PORT_CONTROL,
    }
    container = _container(plan, owner, plan.head, head_arguments(plan), ports, is_head=True)
    # Proxies go on sending for a while after they were told to stop: a head that hung up at once would lose requests.
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}}
    body: Body = {
        "apiVersion": POD[0],
        "kind": POD[1],
        "metadata": metadata(
            owner,
            names.head_pod(owner, replica, incarnation),
            {**plan.labels, **pod_labels(replica, None, incarnation, plan.revision, epoch)},
            plan.annotations,
        ),
        "spec": {
            "hostname": names.head_host(replica),
            "terminationGracePeriodSeconds": plan.grace_head,
            **_spec(plan, owner, replica, plan.head, container, is_head=True),
        },
    }
    mark_pod(body, gang, plan, owner, replica)
    return body


def stage_pod(
    plan: RevisionPlan, owner: Owner, replica: int, stage: int, incarnation: int, epoch: int, gang: Gang
) -> Body:
    """The pod of one pipeline stage: all its tensor-parallel ranks."""
    settings = plan.stages[stage].settings
    arguments = stage_arguments(plan, owner, replica, stage)
    container = _container(plan, owner, settings, arguments, {c.PORT_NAME_STATUS: c.PORT_STATUS}, is_head=False)
    body: Body = {
        "apiVersion": POD[0],
        "kind": POD[1],
        "metadata": metadata(
            owner,
            names.stage_pod(owner, replica, stage, incarnation),
            {**plan.labels, **pod_labels(replica, stage, incarnation, plan.revision, epoch)},
            plan.annotations,
        ),
        "spec": {
            "hostname": names.stage_host(replica, stage),
            "terminationGracePeriodSeconds": plan.grace_stage,
            **_spec(plan, owner, replica, settings, container, is_head=False),
        },
    }
    mark_pod(body, gang, plan, owner, replica)
    return body


def head_arguments(plan: RevisionPlan) -> list[str]:
    """Arguments of ``stageline`` in a head's container."""
    return [
        "serve",
        *plan.engine_arguments,
        "--executor=ray",
        "--host=0.0.0.0",
        f"--port={c.PORT_API}",
        f"--status-port={c.PORT_STATUS}",
        f"--control-port={c.PORT_CONTROL}",
        f"--keys={KEYS_FOLDER}",
        f"--log-format={LOG_FORMAT}",
    ]


def stage_arguments(plan: RevisionPlan, owner: Owner, replica: int, stage: int) -> list[str]:
    """Arguments of ``stageline`` in a stage's container: where its head is, and which stage it is. What it runs, the
    head tells it."""
    host = f"{names.head_host(replica)}.{names.peer_service(owner)}.{owner.namespace}.svc"
    return [
        "node",
        f"--head={host}:{c.PORT_CONTROL}",
        f"--stage={stage}",
        f"--tp={plan.stages[stage].tensor_parallel}",
        f"--status-port={c.PORT_STATUS}",
        f"--keys={KEYS_FOLDER}",
        f"--log-level={plan.log_level}",
        f"--log-format={LOG_FORMAT}",
    ]


def _spec(
    plan: RevisionPlan, owner: Owner, replica: int, settings: PodSettings, container: Body, *, is_head: bool
) -> Body:
    volumes, container["volumeMounts"] = places(plan, owner, settings, is_head=is_head)
    spec: Body = {
        "subdomain": names.peer_service(owner),
        "serviceAccountName": names.service_account(owner),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The kubelet restarts a container where its caches are, also while no operator runs.
        "restartPolicy": "Always",
        "securityContext": _pod_security(plan),
        "containers": [container],
        "volumes": volumes,
    }
    if plan.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in plan.image_pull_secrets]
    place(spec, plan, owner, replica, settings, is_head=is_head)
    return spec


def _container(
    plan: RevisionPlan,
    owner: Owner,
    settings: PodSettings,
    arguments: list[str],
    ports: dict[str, int],
    *,
    is_head: bool,
) -> Body:
    return {
        "name": c.CONTAINER_ENGINE,
        "image": plan.image,
        "imagePullPolicy": plan.image_pull_policy,
        "command": ["stageline"],
        "args": arguments,
        "env": environment(plan, owner, settings),
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "resources": container_resources(settings),
        "startupProbe": _probe(c.PATH_LIVE, period=2, failures=START_PROBES),
        "livenessProbe": _probe(c.PATH_LIVE, period=10, failures=6),
        # A head says not ready as soon as its oldest step is late; nobody gains from hearing it later.
        "readinessProbe": _probe(c.PATH_READY, period=2, failures=1 if is_head else 3),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
    }


def _probe(path: str, period: int, failures: int) -> Body:
    return {
        "httpGet": {"path": path, "port": c.PORT_NAME_STATUS},
        "periodSeconds": period,
        "timeoutSeconds": 5 if path == c.PATH_LIVE else 2,
        "failureThreshold": failures,
    }


def _pod_security(plan: RevisionPlan) -> Body:
    security = plan.security
    body: Body = {
        "runAsNonRoot": True,
        "runAsUser": security.run_as_user or DEFAULT_ID,
        "runAsGroup": security.run_as_group or DEFAULT_ID,
        "fsGroup": security.fs_group or DEFAULT_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if security.supplemental_groups:
        body["supplementalGroups"] = list(security.supplemental_groups)
    if security.se_linux_options is not None:
        body["seLinuxOptions"] = security.se_linux_options.dump()
    return body
