"""Volumes that people may add to a pod: those that the restricted Pod Security Standard allows, and their mounts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.reserved import RESERVED_MOUNTS, RESERVED_VOLUME_PREFIX
from stageline_operator.api.values import SUBDOMAIN, Name, ObjectName, Refused, Size, Text

_OBJECT = (("type", "object"), ("maxProperties", 16), ("x-kubernetes-preserve-unknown-fields", True))

MountPath = Annotated[
    str,
    Text(256, 2, r"(/[^/:]*[^/:.][^/:]*)+", "write an absolute path without '..', ':' or a '/' at the end"),
]
"""No part of it is empty, ``.`` or ``..``, so that a comparison of texts is one of folders."""


class ConfigMapVolume(ApiModel):
    """Files from a ConfigMap."""

    name: ObjectName
    """Name of the ConfigMap."""
    optional: bool | None = None
    """Start the pod also when it does not exist. Default: false."""


class SecretVolume(ApiModel):
    """Files from a Secret."""

    secret_name: ObjectName
    """Name of the Secret."""
    optional: bool | None = None
    """Start the pod also when it does not exist. Default: false."""


class ClaimVolume(ApiModel):
    """A PersistentVolumeClaim that exists."""

    claim_name: ObjectName
    """Name of the claim."""
    read_only: bool | None = None
    """Mount it read-only. Default: false."""


class EmptyDirVolume(ApiModel):
    """A folder that lives as long as the pod."""

    medium: Literal["", "Memory"] = ""
    """`Memory`: a tmpfs, counted in the memory limit. Default: the node's disk."""
    size_limit: Size | None = None
    """Largest size, in bytes. Default: no limit of its own."""


class CsiVolume(ApiModel):
    """A volume of a CSI driver that lives as long as the pod."""

    driver: Annotated[str, Text(63, 1, SUBDOMAIN.pattern, SUBDOMAIN.remedy, SUBDOMAIN.format)]
    """Name of the driver."""
    read_only: bool | None = None
    """Mount it read-only. Default: false."""
    volume_attributes: dict[
        Annotated[str, Text(128, 1, r".{1,128}", "use keys of 1 to 128 characters")], Annotated[str, Text(512)]
    ] = Field(default_factory=dict, max_length=16)
    """Attributes for the driver."""


class Volume(ApiModel):
    """A volume of the pod: a name, and exactly one source."""

    name: Name
    """Name; `volumeMounts` refer to it. Those that begin with `stageline-` are the operator's."""
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
    host_path: Annotated[
        None, Refused("hostPath is not allowed by the restricted Pod Security Standard; use a claim", _OBJECT)
    ] = None
    """Not allowed: use a PersistentVolumeClaim."""

    rules = (
        Rule(
            "has(self.hostPath) || [has(self.configMap), has(self.secret), has(self.persistentVolumeClaim),"
            " has(self.emptyDir), has(self.csi)].filter(x, x).size() == 1",
            "volumes: give each volume exactly one of configMap, secret, persistentVolumeClaim, emptyDir and csi",
            lambda volume: (
                [volume.config_map, volume.secret, volume.persistent_volume_claim, volume.empty_dir, volume.csi].count(
                    None
                )
                == 4
            ),
        ),
        Rule(
            f"!self.name.startsWith('{RESERVED_VOLUME_PREFIX}')",
            f"volumes: names that begin with {RESERVED_VOLUME_PREFIX} are the operator's; take another name",
            lambda volume: not volume.name.startswith(RESERVED_VOLUME_PREFIX),
        ),
    )


class VolumeMount(ApiModel):
    """Where the engine's container sees a volume."""

    name: Name
    """Name of the volume."""
    mount_path: MountPath
    """Absolute path in the container."""
    sub_path: Annotated[str, Text(256, 1)] | None = None
    """Path inside the volume. Default: its root."""
    read_only: bool | None = None
    """Mount read-only. Default: false."""

    rules = (
        Rule(
            f"!({list(RESERVED_MOUNTS)}.exists(p, self.mountPath == p || self.mountPath.startsWith(p + '/')))",
            f"volumeMounts: {', '.join(RESERVED_MOUNTS)} are mounted by the operator; take another mountPath",
            lambda mount: not f"{mount.mount_path}/".startswith(tuple(f"{path}/" for path in RESERVED_MOUNTS)),
        ),
        Rule(
            "!has(self.subPath) || (!self.subPath.startsWith('/') && !self.subPath.split('/').exists(p, p == '..'))",
            "volumeMounts: write subPath relative to the volume, without '..'",
            lambda mount: (
                mount.sub_path is None or not (mount.sub_path.startswith("/") or ".." in mount.sub_path.split("/"))
            ),
        ),
    )
