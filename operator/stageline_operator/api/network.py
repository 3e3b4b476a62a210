"""How clients reach the heads, and who else may."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, LabelKey, Name
from stageline_operator.api.pod_parts import SecretKeyRef


class Network(ApiModel):
    """How clients reach the replicas, and what may reach the pods."""

    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Type of the client Service, which has all heads behind it."""
    service_name: Name | None = None
    """Name of the client Service. Default: the resource's name. Immutable: clients have it in their configuration."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port of the client Service."""
    node_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port on every node, with NodePort or LoadBalancer. Default: chosen by the cluster."""
    annotations: dict[LabelKey, Annotated[str, Field(max_length=4096)]] = Field(default_factory=dict, max_length=32)
    """Annotations of the client Service, e.g. for a load balancer."""
    network_policy: bool = True
    """Make a NetworkPolicy: pods of a replica reach each other, clients reach the API port, the operator the status
    port, and nothing else comes in."""
    api_keys: SecretKeyRef | None = None
    """Secret whose key holds the API keys that clients must show, one on each line. Mounted into the head, never read
    by the operator. Default: no key is asked for."""
