"""Services: one for clients, one through which stages find their head."""

from __future__ import annotations

from stageline_operator.api import constants as c
from stageline_operator.objects.metadata import Body, metadata, select_heads, select_resource
from stageline_operator.plan import names
from stageline_operator.plan.plan import Plan


def peer_service(plan: Plan) -> Body:
    """The headless Service that gives pods their DNS names.

    Addresses that are not ready are in it too: stages need their head before it can be ready.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(plan.owner, names.peer_service(plan.owner)),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": select_resource(plan.owner),
            "ports": [_port(c.PORT_NAME_CONTROL, c.PORT_CONTROL, c.PORT_NAME_CONTROL)],
        },
    }


def client_service(plan: Plan) -> Body:
    """The Service that clients use: heads that are ready, and no others.

    With ``publishNotReadyAddresses`` a roll-out would send clients to the head that still loads and to the one that
    ends: such addresses count as ready whatever their pod says.
    """
    network = plan.network
    port = _port(c.PORT_NAME_API, network.port, c.PORT_NAME_API)
    if network.node_port is not None:
        port["nodePort"] = network.node_port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(
            plan.owner, names.client_service(plan.owner, network.service_name), annotations=network.annotations
        ),
        "spec": {
            "type": network.service_type,
            "selector": select_heads(plan.owner),
            "ports": [port],
        },
    }


def _port(name: str, port: int, target: str) -> Body:
    return {"name": name, "port": port, "targetPort": target, "protocol": "TCP"}
