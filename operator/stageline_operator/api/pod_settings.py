"""What a person may set for pods: once for all of a pipeline, for the head, for all stages, for one stage.

The narrower one wins: ``podTemplate`` < ``pipeline.stageDefaults`` < ``pipeline.stageList[i]``, and ``podTemplate`` <
``head``. Maps join key by key, ``env`` by name, ``volumes`` by name, ``volumeMounts`` by path; tolerations add up;
every other field is replaced as a whole. Of ``resources``, a place that names one (``memory``) replaces its request and
its limit, so that the two of a pod always come from one place. plan.merge does it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.affinity import Affinity
from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.env import EnvVar
from stageline_operator.api.resources import Resources, gpus
from stageline_operator.api.tolerations import Toleration
from stageline_operator.api.values import ByKey, LabelKey, LabelValue, ObjectName
from stageline_operator.api.volumes import Volume, VolumeMount


class CommonSettings(ApiModel):
    """Where a pod runs and what it sees."""

    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels that the node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16)] = ()
    """Taints that the pod may be placed in spite of. Not-ready and unreachable nodes are tolerated for
    `restart.nodeLostSeconds`, unless named here."""
    affinity: Affinity | None = None
    """Which nodes, near or far from which pods."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pod. Default: the cluster's."""
    env: Annotated[tuple[EnvVar, ...], Field(max_length=32), ByKey("name")] = ()
    """More environment variables of the engine's container."""
    volumes: Annotated[tuple[Volume, ...], Field(max_length=16), ByKey("name")] = ()
    """More volumes of the pod."""
    volume_mounts: Annotated[tuple[VolumeMount, ...], Field(max_length=16), ByKey("mount_path")] = ()
    """Where the engine's container sees the volumes."""


class PodSettings(CommonSettings):
    """Where a pod runs, with what, and what it sees."""

    resources: Resources | None = None
    """CPU, memory and GPUs of the pod's engine container. One pod has all tensor-parallel ranks of a stage, so a stage
    on GPUs asks for as many as `tensorParallel`."""


class Head(PodSettings):
    """The head pod of each replica: API server and engine core. It holds no weights and needs no GPU."""

    rules = (
        Rule(
            "!has(self.resources) || !has(self.resources.limits) || !self.resources.limits.exists(k,"
            " k.startsWith('nvidia.com/') || k.startsWith('amd.com/'))",
            "spec.head.resources.limits: the head computes on no GPU; give GPUs to the stages, in"
            " spec.pipeline.stageDefaults.resources",
            lambda head: head.resources is None or gpus(head.resources.limits) is None,
        ),
    )
