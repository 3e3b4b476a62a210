"""What all pods of a pipeline get, and the list of what may not be overridden."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.constants import OPERATOR_POD_LABELS
from stageline_operator.api.pod_settings import CommonSettings
from stageline_operator.api.refs import ObjectRef
from stageline_operator.api.reserved import RESERVED_LABEL_PREFIX
from stageline_operator.api.values import AnnotationValue, ByKey, LabelKey, LabelValue, Refused, Text

_BOOLEAN = (("type", "boolean"),)
_STRING = (("type", "string"), ("maxLength", 253))
_NUMBER = (("type", "integer"),)
_OBJECT = (("type", "object"), ("maxProperties", 16), ("x-kubernetes-preserve-unknown-fields", True))
_LIST = (("type", "array"), ("maxItems", 16), ("items", dict(_OBJECT)))

Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A user or group; not 0, which is root."""


class SeLinuxOptions(ApiModel):
    """SELinux labels of the containers."""

    level: Annotated[str, Text(64, 1)] | None = None
    """Level label, e.g. `s0:c123,c456`."""
    type: Literal["container_t", "container_init_t", "container_kvm_t", "container_engine_t"] | None = None
    """Type label: one that the restricted Pod Security Standard allows."""


class PodSecurity(ApiModel):
    """Users and groups of the pods. All else is fixed by the restricted Pod Security Standard."""

    run_as_user: Id | None = None
    """User id of all processes; not 0. Default: 65532."""
    run_as_group: Id | None = None
    """Group id of all processes; not 0. Default: 65532."""
    fs_group: Id | None = None
    """Group that owns mounted volumes. Default: 65532."""
    supplemental_groups: Annotated[tuple[Id, ...], Field(max_length=8)] = ()
    """More groups of all processes, e.g. that of a device file."""
    se_linux_options: SeLinuxOptions | None = None
    """SELinux labels. Default: the node's."""


class PodTemplate(CommonSettings):
    """What all pods of the pipeline get, heads and stages. A change rolls all replicas. What makes a pod a part of a
    pipeline may not be overridden; those fields are refused with the way to do it."""

    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)
    """More labels of the pods. Those with the prefix `stageline.dev/` are the operator's."""
    annotations: dict[LabelKey, AnnotationValue] = Field(default_factory=dict, max_length=32)
    """More annotations of the pods."""
    image_pull_secrets: Annotated[tuple[ObjectRef, ...], Field(max_length=8), ByKey("name")] = ()
    """Secrets that the kubelet pulls the image with."""
    security: PodSecurity | None = None
    """Users and groups."""

    containers: Annotated[
        None, Refused("the operator writes the containers; use env, volumes and volumeMounts, and spec.image", _LIST)
    ] = None
    """Not allowed: use env, volumes and volumeMounts, and `spec.image`."""
    init_containers: Annotated[
        None, Refused("the operator writes the containers; prepare volumes with a Job of your own", _LIST)
    ] = None
    """Not allowed: prepare volumes with a Job of your own."""
    resources: Annotated[
        None,
        Refused("heads and stages need different ones; use spec.head.resources and stageDefaults.resources", _OBJECT),
    ] = None
    """Not allowed: use `spec.head.resources` and `spec.pipeline.stageDefaults.resources`."""
    security_context: Annotated[
        None, Refused("use spec.podTemplate.security; the rest is fixed by the restricted standard", _OBJECT)
    ] = None
    """Not allowed: use `security`."""
    host_network: Annotated[
        None, Refused("pods of a pipeline have addresses of their own; remove hostNetwork", _BOOLEAN)
    ] = None
    """Not allowed."""
    host_pid: Annotated[
        None,
        Field(alias="hostPID"),
        Refused("not allowed by the restricted Pod Security Standard; remove hostPID", _BOOLEAN),
    ] = None
    """Not allowed."""
    host_ipc: Annotated[
        None,
        Field(alias="hostIPC"),
        Refused("ranks of a stage share one pod and its /dev/shm; remove hostIPC", _BOOLEAN),
    ] = None
    """Not allowed."""
    host_users: Annotated[None, Refused("the operator decides about user namespaces; remove hostUsers", _BOOLEAN)] = (
        None
    )
    """Not allowed."""
    share_process_namespace: Annotated[
        None, Refused("a pod has one container; remove shareProcessNamespace", _BOOLEAN)
    ] = None
    """Not allowed."""
    automount_service_account_token: Annotated[
        None, Refused("pods of a pipeline have no token; remove automountServiceAccountToken", _BOOLEAN)
    ] = None
    """Not allowed."""
    service_account_name: Annotated[
        None, Refused("the operator makes a ServiceAccount without rights; remove serviceAccountName", _STRING)
    ] = None
    """Not allowed."""
    restart_policy: Annotated[
        None, Refused("the operator replaces pods itself; use spec.restart and remove restartPolicy", _STRING)
    ] = None
    """Not allowed: use `spec.restart`."""
    termination_grace_period_seconds: Annotated[
        None, Refused("the grace period follows from spec.engine.drainTimeout; set that", _NUMBER)
    ] = None
    """Not allowed: it follows from `spec.engine.drainTimeout`."""
    active_deadline_seconds: Annotated[
        None, Refused("a pipeline has no end; use spec.restart for deadlines and remove activeDeadlineSeconds", _NUMBER)
    ] = None
    """Not allowed: `spec.restart` has the deadlines."""
    hostname: Annotated[None, Refused("pods find each other by it; remove hostname", _STRING)] = None
    """Not allowed."""
    subdomain: Annotated[None, Refused("pods find each other by it; remove subdomain", _STRING)] = None
    """Not allowed."""
    node_name: Annotated[None, Refused("use nodeSelector or affinity", _STRING)] = None
    """Not allowed: use `nodeSelector`."""
    scheduler_name: Annotated[None, Refused("use spec.scheduling.schedulerName", _STRING)] = None
    """Not allowed: use `spec.scheduling.schedulerName`."""
    priority_class_name: Annotated[None, Refused("use spec.scheduling.priorityClassName", _STRING)] = None
    """Not allowed: use `spec.scheduling.priorityClassName`."""

    rules = (
        Rule(
            f"!has(self.labels) || !self.labels.exists(k, k.startsWith('{RESERVED_LABEL_PREFIX}')"
            " || k == 'app.kubernetes.io/managed-by')",
            f"labels: {RESERVED_LABEL_PREFIX}* and app.kubernetes.io/managed-by are the operator's; take other keys",
            lambda template: (
                not any(
                    key.startswith(RESERVED_LABEL_PREFIX) or key == "app.kubernetes.io/managed-by"
                    for key in template.labels
                )
            ),
        ),
        Rule(
            " && ".join(
                f"(!has(self.labels) || !('{key}' in self.labels) || self.labels['{key}'] != '{value}')"
                for key, value in OPERATOR_POD_LABELS.items()
            ),
            "labels: app.kubernetes.io/name: stageline-operator is that of the operator's own pods, which may reach the"
            " status port of all heads; take another value",
            lambda template: not OPERATOR_POD_LABELS.items() <= template.labels.items(),
        ),
        Rule(
            f"!has(self.annotations) || !self.annotations.exists(k, k.startsWith('{RESERVED_LABEL_PREFIX}'))",
            f"annotations: {RESERVED_LABEL_PREFIX}* are the operator's; take other keys",
            lambda template: not any(key.startswith(RESERVED_LABEL_PREFIX) for key in template.annotations),
        ),
    )
