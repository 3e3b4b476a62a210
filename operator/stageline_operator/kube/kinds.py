"""The kinds of objects that the operator reads or writes, with the paths under which the API server has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stageline_operator.api import constants
from stageline_operator.plan.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of namespaced objects.

    Attributes:
        plural: its name in paths, in RBAC rules and in the audit log.
    """

    api_version: str
    kind: str
    plural: str

    @property
    def group(self) -> str:
        """API group; "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """Version within the group."""
        return self.api_version.rpartition("/")[2]


RESOURCE: Final = Kind(constants.API_VERSION, constants.KIND, constants.PLURAL)
"""InferenceDeployment."""
POD: Final = Kind("v1", "Pod", "pods")
"""Pods of heads and stages."""
SECRET: Final = Kind("v1", "Secret", "secrets")
"""The group Secret: POSTed, never read."""
EVENT: Final = Kind("events.k8s.io/v1", "Event", "events")
"""Events: POSTed, and patched when they repeat."""
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
"""The operator's own Lease."""
REVISION: Final = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
"""What a revision's pods depend on."""

_ALWAYS = (
    Kind("v1", "Service", "services"),
    Kind("v1", "ServiceAccount", "serviceaccounts"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    REVISION,
    POD,
)
_POD_MONITOR = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")
_VOLCANO = Kind("scheduling.volcano.sh/v1beta1", "PodGroup", "podgroups")
_COSCHEDULING = Kind("scheduling.x-k8s.io/v1alpha1", "PodGroup", "podgroups")
NATIVE_GROUP: Final = "scheduling.k8s.io"
"""Group of the API server's own gang scheduling."""


def watched_children(cluster: Cluster) -> tuple[Kind, ...]:
    """Kinds of children that are watched: the ones that this cluster has. Pods come last, since they depend on all."""
    optional = (
        (cluster.pod_monitor, _POD_MONITOR),
        (cluster.volcano, _VOLCANO),
        (cluster.coscheduling, _COSCHEDULING),
        (cluster.native_gang, Kind(f"{NATIVE_GROUP}/{cluster.native_gang}", "PodGroup", "podgroups")),
    )
    return tuple(kind for there, kind in optional if there) + _ALWAYS


def kind_of(api_version: str, kind: str) -> Kind:
    """The kind of an object that a decision names.

    Raises:
        KeyError: the operator has nothing to do with such objects.
    """
    if kind == "PodGroup":
        return Kind(api_version, kind, "podgroups")
    return _BY_NAME[api_version, kind]


_BY_NAME = {(each.api_version, each.kind): each for each in (*_ALWAYS, _POD_MONITOR, RESOURCE, SECRET, EVENT, LEASE)}
