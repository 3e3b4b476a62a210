"""Ports that stay free across the restart of their server."""

from __future__ import annotations

import random
import socket
from pathlib import Path

_LOWEST = 20000


def pick_ports(count: int, address: str) -> list[int]:
    """``count`` free ports of ``address`` below the range that the kernel hands out to outgoing connections.

    A port of that range could be taken by a client in the moment when its server restarts.
    """
    ceiling = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = list(range(_LOWEST, max(ceiling, _LOWEST + 1000)))
    random.shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        if _is_free(port, address):
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"{address} has no {count} free ports between {_LOWEST} and {ceiling}")


def _is_free(port: int, address: str) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True
