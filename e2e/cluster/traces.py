"""What containerd, CNI plugins and kubelets write at places of their own choice, outside the cluster's folder."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from pathlib import Path

from cluster.layout import NODES, STATE

_POD_LOGS = Path("/var/log/containers")
_POD_ADDRESSES = Path("/var/lib/cni/results")
_OUR_RESULT = re.compile(rf"(?:{'|'.join(node.pod_network for node in NODES)})-(?P<pod>[0-9a-f]+)-eth0")
"""Named by network, pod and device; that of a pod's loopback device has a network's name that everybody uses."""
_SHIM_SOCKETS = Path("/run/containerd/s")
WRITTEN_OUTSIDE = (
    _POD_LOGS,
    _POD_ADDRESSES,
    Path("/var/lib/cni"),
    _SHIM_SOCKETS,
    Path("/run/containerd"),
)
"""Each before the folder that it lies in."""


def remove() -> None:
    """Removes the cluster's own of it; folders only when nobody else has anything in them."""
    for link in _entries(_POD_LOGS):
        if link.is_symlink() and link.readlink().is_relative_to(STATE):
            link.unlink()
    for result in _entries(_POD_ADDRESSES):
        if match := _OUR_RESULT.fullmatch(result.name):
            result.unlink()
            (_POD_ADDRESSES / f"cni-loopback-{match['pod']}-lo").unlink(missing_ok=True)
    for file in _entries(_SHIM_SOCKETS):
        if not _is_served(file):
            file.unlink()
    for folder in WRITTEN_OUTSIDE:
        with suppress(OSError):
            folder.rmdir()


def _is_served(file: Path) -> bool:
    """Whether a process listens there; a socket that was left by a killed one is of no use to anybody."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(file)) == 0


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.exists() else []
