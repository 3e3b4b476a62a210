"""What of a cluster is on this machine, kind by kind: all of it is empty when no cluster is up."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from cluster import debian, kernel
from cluster.commands import run
from cluster.layout import BRIDGE, NODES, PODS, STATE
from cluster.traces import WRITTEN_OUTSIDE

_RULES = ("iptables-save", "ip6tables-save")


def found() -> dict[str, list[str]]:
    """Processes, mounts, links, routes, control groups and files of a cluster that is, or was, up."""
    links = {BRIDGE, *(node.link for node in NODES)}
    return {
        "processes": _processes(),
        "mounts": kernel.mounts(),
        "links": [link["ifname"] for link in json.loads(run("ip", "-json", "link")) if link["ifname"] in links],
        "routes": [route["dst"] for route in json.loads(run("ip", "-json", "route")) if _is_ours(route["dst"])],
        "control groups": [str(group) for node in NODES for group in kernel.cgroups(node)],
        "files": [str(path) for path in (STATE, *WRITTEN_OUTSIDE) if path.exists()],
    }


def machine() -> dict[str, object]:
    """What belongs to the machine and has to be as it was: kernel settings, and packet rules of its own network."""
    rules = [run(f"{debian.ROOT}/usr/sbin/{tool}", environment=debian.environment()) for tool in _RULES]
    listed = [line for text in rules for line in text.splitlines() if line and not line.startswith("#")]
    return {"settings": kernel.read_settings(), "rules": listed}


def _is_ours(destination: str) -> bool:
    return destination.startswith((PODS.removesuffix("0.0/16"), "10.231.0."))


def _processes() -> list[str]:
    """Command lines that name the cluster's folder, as those of all its daemons do; containers are in its groups."""
    lines = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit():
                line = (folder / "cmdline").read_bytes()
                if f"{STATE}/".encode() in line:
                    lines.append(line.replace(b"\0", b" ").decode(errors="replace").strip())
    return lines
