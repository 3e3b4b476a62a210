"""What a person may set for pods: once for all of a pipeline, for the head, for all stages, for one stage.

The narrower one wins: ``podTemplate`` < ``pipeline.stageDefaults`` < ``pipeline.stageList[i]``, and ``podTemplate`` <
``head``. Maps join key by key, ``env`` by name, ``volumes`` by name, ``volumeMounts`` by path; tolerations add up;
every other field is replaced as a whole. plan.merge does it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.affinity import Affinity
from stageline_operator.api.base import ApiModel, LabelKey, LabelValue, ObjectName
from stageline_operator.api.pod_parts import EnvVar, Resources, Toleration, Volume, VolumeMount


class PodSettings(ApiModel):
    """Where a pod runs, with what, and what it sees."""

    resources: Resources | None = None
    """CPU, memory and GPUs of the pod's engine container. One pod has all tensor-parallel ranks of a stage, so a stage
    on GPUs asks for as many as `tensorParallel`."""
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels that the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pod may be placed in spite of. Not-ready and unreachable nodes are tolerated for
    `restart.nodeLostSeconds`, unless named here."""
    affinity: Affinity | None = None
    """Which nodes, near or far from which pods."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pod. Default: the cluster's."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=32)] = ()
    """More environment variables of the engine's container."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=16)] = ()
    """More volumes of the pod."""
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=16)] = ()
    """Where the engine's container sees the volumes."""


class Head(PodSettings):
    """The head pod of each replica: API server and engine core. It holds no weights and needs no GPU."""


class SeLinuxOptions(ApiModel):
    """SELinux labels of the containers."""

    level: Annotated[str, Field(max_length=64)] | None = None
    """Level label."""
    type: Annotated[str, Field(max_length=64)] | None = None
    """Type label; the restricted standard allows container_t, container_init_t, container_kvm_t, container_engine_t."""


class PodSecurity(ApiModel):
    """Users and groups of the pods. All else is fixed by the restricted Pod Security Standard."""

    run_as_user: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """User id of all processes; not 0. Default: 65532."""
    run_as_group: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Group id of all processes. Default: 65532."""
    fs_group: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    """Group that owns mounted volumes. Default: 65532."""
    supplemental_groups: Annotated[tuple[Annotated[int, Field(ge=1, le=2**31 - 1)], ...], Field(max_length=8)] = ()
    """More groups of all processes, e.g. that of a device file."""
    se_linux_options: SeLinuxOptions | None = None
    """SELinux labels. Default: the node's."""


class ObjectRef(ApiModel):
    """An object of the resource's namespace, by name."""

    name: ObjectName
    """Its name."""


class PodTemplate(PodSettings):
    """What all pods of the pipeline get: heads and stages."""

    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32)
    """More labels of the pods. Those with the prefix `stageline.dev/` are the operator's."""
    annotations: dict[LabelKey, Annotated[str, Field(max_length=4096)]] = Field(default_factory=dict, max_length=32)
    """More annotations of the pods. A change rolls all replicas, as every change here does."""
    image_pull_secrets: Annotated[tuple[ObjectRef, ...], Field(max_length=8)] = ()
    """Secrets that the kubelet pulls the image with."""
    security: PodSecurity | None = None
    """Users and groups."""
