"""Pieces of a pod's spec that people may set: a bounded part of core/v1, with its names and meaning.

Only what a pod under the restricted Pod Security Standard may have is here, so that what the API server accepts can
run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import AmountOrNumber, ApiModel, LabelKey, LabelValue, Name, ObjectName

EnvName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, Field(min_length=2, max_length=256, pattern=r"^/[^:]*$")]
DataKey = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._A-Za-z0-9]+$")]


class Resources(ApiModel):
    """What the engine's container may use and is promised."""

    requests: dict[LabelKey, AmountOrNumber] = Field(default_factory=dict, max_length=16)
    """Promised amounts by resource name (`cpu`, `memory`, `nvidia.com/gpu`). Default: the limits."""
    limits: dict[LabelKey, AmountOrNumber] = Field(default_factory=dict, max_length=16)
    """Largest amounts by resource name. The shared memory of a stage's ranks counts in `memory`."""


class SecretKeyRef(ApiModel):
    """A key of a Secret in the resource's namespace. The operator never reads it; the pod mounts it."""

    name: ObjectName
    """Name of the Secret."""
    key: DataKey
    """Key in the Secret's data."""
    optional: bool | None = None
    """Start also when the Secret or the key does not exist. Default: false."""


class ConfigMapKeyRef(ApiModel):
    """A key of a ConfigMap in the resource's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key in the ConfigMap's data."""
    optional: bool | None = None
    """Start also when the ConfigMap or the key does not exist. Default: false."""


class FieldRef(ApiModel):
    """A field of the pod itself."""

    field_path: Annotated[str, Field(min_length=1, max_length=253)]
    """Path of the field, e.g. `status.hostIP`."""


class EnvSource(ApiModel):
    """Where the value of an environment variable comes from; exactly one of the three."""

    secret_key_ref: SecretKeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: ConfigMapKeyRef | None = None
    """A key of a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the pod."""


class EnvVar(ApiModel):
    """An environment variable of the engine's container."""

    name: EnvName
    """Name. Those that the operator sets itself are refused."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Value; or give `valueFrom`."""
    value_from: EnvSource | None = None
    """Where the value comes from; or give `value`."""


class Toleration(ApiModel):
    """A taint that a pod may be placed in spite of."""

    key: LabelKey | None = None
    """Key of the taint. Default: all taints, with `operator: Exists`."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal` compares the value, `Exists` only asks for the key."""
    value: LabelValue | None = None
    """Value of the taint, with `operator: Equal`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint. Default: all effects."""
    toleration_seconds: Annotated[int, Field(ge=0, le=86400)] | None = None
    """Seconds that the pod stays after a NoExecute taint came. Default: for ever."""


class ConfigMapVolume(ApiModel):
    """Files from a ConfigMap."""

    name: ObjectName
    """Name of the ConfigMap."""
    optional: bool | None = None
    """Start also when it does not exist. Default: false."""


class SecretVolume(ApiModel):
    """Files from a Secret."""

    secret_name: ObjectName
    """Name of the Secret."""
    optional: bool | None = None
    """Start also when it does not exist. Default: false."""


class ClaimVolume(ApiModel):
    """A PersistentVolumeClaim that exists."""

    claim_name: ObjectName
    """Name of the claim."""
    read_only: bool | None = None
    """Mount it read-only. Default: false."""


class EmptyDirVolume(ApiModel):
    """A folder that lives as long as the pod."""

    medium: Literal["", "Memory", "HugePages"] = ""
    """`Memory`: a tmpfs, counted in the memory limit. Default: the node's disk."""
    size_limit: AmountOrNumber | None = None
    """Largest size. Default: no limit of its own."""


class CsiVolume(ApiModel):
    """A volume of a CSI driver that lives as long as the pod."""

    driver: ObjectName
    """Name of the driver."""
    read_only: bool | None = None
    """Mount it read-only. Default: false."""
    volume_attributes: dict[Annotated[str, Field(max_length=128)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    """Attributes for the driver."""


class Volume(ApiModel):
    """A volume of the pod: a name, and exactly one source."""

    name: Name
    """Name; `volumeMounts` refer to it. Those that the operator makes itself are refused."""
    config_map: ConfigMapVolume | None = None
    """Files from a ConfigMap."""
    secret: SecretVolume | None = None
    """Files from a Secret."""
    persistent_volume_claim: ClaimVolume | None = None
    """A PersistentVolumeClaim that exists."""
    empty_dir: EmptyDirVolume | None = None
    """A folder that lives as long as the pod."""
    csi: CsiVolume | None = None
    """A volume of a CSI driver."""


class VolumeMount(ApiModel):
    """Where the engine's container sees a volume."""

    name: Name
    """Name of the volume."""
    mount_path: MountPath
    """Absolute path in the container."""
    sub_path: Annotated[str, Field(max_length=256)] | None = None
    """Path inside the volume. Default: its root."""
    read_only: bool | None = None
    """Mount read-only. Default: false."""
