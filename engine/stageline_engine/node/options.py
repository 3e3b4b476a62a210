"""What a node is told when it is started; what it is to run, the head tells it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from stageline_engine.agent.node_agent import interface_of
from stageline_engine.comm.commands import ReplicaKeys
from stageline_engine.comm.curve import endpoint_of
from stageline_engine.core.errors import ConfigurationError

POD_NAME = "STAGELINE_POD_NAME"
"""Environment variable with the name of the own pod."""
POD_ADDRESS = "STAGELINE_POD_IP"
"""Environment variable with the address of the own pod."""


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """All of it, checked."""

    head_host: str
    head_port: int
    stage: int
    tp: int
    keys: ReplicaKeys
    address: str
    """Own address, to which ranks and probes bind."""
    status_port: int
    """0: the system chooses one."""
    pod: str
    """Name of the own pod; "" outside of Kubernetes."""

    @property
    def endpoint(self) -> str:
        """ZeroMQ address of the head's channel."""
        return endpoint_of(self.head_host, self.head_port)


def parse_host(flag: str, text: str) -> tuple[str, int]:
    """``HOST:PORT``, or ``[ADDRESS]:PORT`` for an IPv6 address.

    Raises:
        ConfigurationError: it is something else.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(flag, text, "write HOST:PORT, e.g. head.example:7400")
    return host, int(port)


def check_address(address: str) -> str:
    """``address``, if an interface of this machine has it.

    Raises:
        ConfigurationError: none has.
    """
    if interface_of(address) is None:
        raise ConfigurationError("--address", address, "no network interface has this IP address: give one that has")
    return address


def address_towards(host: str, port: int) -> str | None:
    """Own address on the way to ``host``; None: its name is not known, or there is no way to it."""
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            # Nothing is sent: the system only chooses a route.
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return None
