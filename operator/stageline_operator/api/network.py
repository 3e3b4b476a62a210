"""How clients reach the heads, and who else may."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.refs import SecretKeyRef
from stageline_operator.api.reserved import RESERVED_LABEL_PREFIX
from stageline_operator.api.values import AnnotationValue, LabelKey, ServiceName

Port = Annotated[int, Field(ge=1, le=65535)]


class Network(ApiModel):
    """How clients reach the replicas, and what may reach the pods."""

    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the client Service, which has all heads behind it."""
    service_name: ServiceName | None = None
    """Name of the client Service. Default: the resource's name. Immutable: clients have it in their configuration."""
    port: Port = 8000
    """Port of the client Service."""
    node_port: Port | None = None
    """Port on every node, with NodePort or LoadBalancer. Default: chosen by the cluster."""
    annotations: dict[LabelKey, AnnotationValue] = Field(default_factory=dict, max_length=32)
    """Annotations of the client Service, e.g. for a load balancer."""
    network_policy: bool = True
    """Make a NetworkPolicy: pods of a replica reach each other, clients reach the API port, the operator the status
    port, and nothing else comes in."""
    api_keys: SecretKeyRef | None = None
    """Secret whose key holds the API keys that clients must show, one on each line. Mounted into the head, never read
    by the operator. A change of this reference replaces all replicas. Default: no key is asked for."""

    rules = (
        Rule(
            "has(self.serviceName) == has(oldSelf.serviceName)"
            " && (!has(self.serviceName) || self.serviceName == oldSelf.serviceName)",
            "spec.network.serviceName is immutable, also adding and removing it; delete the resource and create it"
            " anew",
            None,
            lambda old, new: old.service_name == new.service_name,
        ),
        Rule(
            "!has(self.nodePort) || self.serviceType != 'ClusterIP'",
            "spec.network.nodePort needs serviceType: NodePort or LoadBalancer; set that, or leave nodePort out",
            lambda network: network.node_port is None or network.service_type != "ClusterIP",
        ),
        Rule(
            f"!has(self.annotations) || !self.annotations.exists(k, k.startsWith('{RESERVED_LABEL_PREFIX}'))",
            f"spec.network.annotations: {RESERVED_LABEL_PREFIX}* are the operator's; take other keys",
            lambda network: not any(key.startswith(RESERVED_LABEL_PREFIX) for key in network.annotations),
        ),
    )
