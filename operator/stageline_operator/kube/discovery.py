"""What the API server offers → Cluster, by asking it which groups and versions it serves."""

from __future__ import annotations

from typing import Protocol

from stageline_operator.api.constants import API_VERSION
from stageline_operator.api.errors import GoneError
from stageline_operator.kube.client import Body
from stageline_operator.kube.kinds import NATIVE_GROUP
from stageline_operator.plan.cluster import Cluster

_NATIVE_VERSIONS = ("v1", "v1beta1", "v1alpha3", "v1alpha2")
"""Versions of NATIVE_GROUP that can have PodGroup, the best first."""


class Readable(Protocol):
    """The part of the client that discovery needs."""

    async def get_path(self, path: str) -> Body:
        """GET of any path."""
        ...


async def discover(client: Readable) -> Cluster:
    """Ask once.

    Raises:
        GoneError: our own definition is not installed.
        ApiError: the server did not answer.
    """
    await client.get_path(f"/apis/{API_VERSION}")
    groups = {group["name"]: group for group in (await client.get_path("/apis"))["groups"]}
    served = {entry["version"] for entry in groups.get(NATIVE_GROUP, {}).get("versions", [])}
    native = ""
    for version in _NATIVE_VERSIONS:
        if version in served and await _has(client, f"{NATIVE_GROUP}/{version}", "podgroups"):
            native = version
            break
    return Cluster(
        native_gang=native,
        volcano="scheduling.volcano.sh" in groups and await _has(client, "scheduling.volcano.sh/v1beta1", "podgroups"),
        coscheduling="scheduling.x-k8s.io" in groups
        and await _has(client, "scheduling.x-k8s.io/v1alpha1", "podgroups"),
        kueue="kueue.x-k8s.io" in groups,
        pod_monitor="monitoring.coreos.com" in groups and await _has(client, "monitoring.coreos.com/v1", "podmonitors"),
    )


async def _has(client: Readable, api_version: str, plural: str) -> bool:
    try:
        answer = await client.get_path(f"/apis/{api_version}")
    except GoneError:
        return False
    return any(resource["name"] == plural for resource in answer["resources"])
