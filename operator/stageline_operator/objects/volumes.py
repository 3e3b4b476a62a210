"""What a pod sees besides its image: writable places, the model, keys. The root file system is read-only."""

from __future__ import annotations

from typing import Final

from stageline_operator.api import reserved
from stageline_operator.api.constants import SECRET_KEY_CURVE, SECRET_KEY_RAY_TOKEN
from stageline_operator.api.pod_settings import PodSettings
from stageline_operator.objects.metadata import Body
from stageline_operator.objects.resources import shm_size
from stageline_operator.plan import names
from stageline_operator.plan.engine_flags import API_KEYS_FILE
from stageline_operator.plan.plan import RevisionPlan
from stageline_operator.plan.spec import Owner

READ_BY_GROUP: Final = 0o440
"""Mode of mounted keys: the pod's own user reads them as a member of ``fsGroup``."""
KEYS_FOLDER: Final = f"{reserved.MOUNT_SECRETS}/group"
"""Where pods see the group Secret's CURVE key."""
HUB_FOLDER: Final = f"{reserved.MOUNT_SECRETS}/hub"
HUB_TOKEN_FILE: Final = f"{HUB_FOLDER}/token"
"""Where pods see the hub's token."""

Places = tuple[list[Body], list[Body]]
"""Volumes of a pod, and mounts of its container."""


def places(plan: RevisionPlan, owner: Owner, settings: PodSettings, *, is_head: bool) -> Places:
    """Volumes and mounts of a pod; a person's own come last."""
    volumes: list[Body] = []
    mounts: list[Body] = []

    def add(name: str, path: str, source: Body, **mount: object) -> None:
        volumes.append({"name": reserved.RESERVED_VOLUME_PREFIX + name, **source})
        mounts.append({"name": reserved.RESERVED_VOLUME_PREFIX + name, "mountPath": path, **mount})

    add("tmp", reserved.MOUNT_TMP, {"emptyDir": {}})
    add("shm", reserved.MOUNT_SHM, {"emptyDir": {"medium": "Memory", "sizeLimit": shm_size(settings)}})
    add("cache", reserved.MOUNT_CACHE, _cache(plan))
    if plan.model.source.startswith("pvc://"):
        claim = plan.model.source.removeprefix("pvc://").partition("/")[0]
        add(
            "model",
            reserved.MOUNT_MODEL,
            {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
            readOnly=True,
        )
    # Optional, so that a missing Secret shows in the pod's status, by the variable that needs it: see environment.
    group = _one_key(names.group_secret(owner), SECRET_KEY_CURVE, SECRET_KEY_CURVE)
    group["secret"]["optional"] = True
    add("keys", KEYS_FOLDER, group, readOnly=True)
    if plan.model.credentials is not None:
        token = _one_key(plan.model.credentials.name, plan.model.credentials.key, "token")
        add("hub", HUB_FOLDER, token, readOnly=True)
    if is_head and plan.api_keys is not None:
        folder, _, file = API_KEYS_FILE.rpartition("/")
        add("api-keys", folder, _one_key(*plan.api_keys, file), readOnly=True)

    volumes += [volume.dump() for volume in settings.volumes]
    mounts += [mount.dump() for mount in settings.volume_mounts]
    return volumes, mounts


def environment(plan: RevisionPlan, owner: Owner, settings: PodSettings) -> list[Body]:
    """Environment variables: who the pod is, where it may write, how Ray knows its peers; a person's own come last."""
    secret = {"name": names.group_secret(owner), "key": SECRET_KEY_RAY_TOKEN}
    values: list[Body] = [
        {"name": "STAGELINE_POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        {"name": "STAGELINE_POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
        {"name": "HOME", "value": reserved.MOUNT_TMP},
        {"name": "TMPDIR", "value": reserved.MOUNT_TMP},
        {"name": "XDG_CACHE_HOME", "value": f"{reserved.MOUNT_CACHE}/xdg"},
        {"name": "HF_HOME", "value": f"{reserved.MOUNT_CACHE}/huggingface"},
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]
    if plan.model.credentials is not None:
        values.append({"name": "HF_TOKEN_PATH", "value": HUB_TOKEN_FILE})
    return values + [variable.dump() for variable in settings.env]


def _cache(plan: RevisionPlan) -> Body:
    cache = plan.model.cache
    if cache.claim_name is not None:
        return {"persistentVolumeClaim": {"claimName": cache.claim_name}}
    return {"emptyDir": {} if cache.size_limit is None else {"sizeLimit": cache.size_limit}}


def _one_key(secret: str, key: str, path: str) -> Body:
    items = [{"key": key, "path": path}]
    return {"secret": {"secretName": secret, "items": items, "defaultMode": READ_BY_GROUP}}
