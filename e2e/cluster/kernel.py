"""What kubelets change on the machine beyond their own folders: kernel settings, control groups, mounts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cluster.commands import run
from cluster.layout import STATE, Node
from support.kube.waiting import wait_until

SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Below /proc/sys; a kubelet sets them when it starts."""
_SAVED = STATE / "kernel-settings.json"
_KILL_SECONDS = 20.0


def read_settings() -> dict[str, str]:
    return {name: (Path("/proc/sys") / name).read_text().strip() for name in SETTINGS}


def save_settings() -> None:
    _SAVED.write_text(json.dumps(read_settings()))


def restore_settings() -> None:
    if _SAVED.exists():
        for name, value in json.loads(_SAVED.read_text()).items():
            (Path("/proc/sys") / name).write_text(value)


def make_cgroups(node: Node) -> None:
    """The node's control group in every hierarchy; a kubelet wants to find it."""
    for hierarchy in hierarchies():
        folder = hierarchy / node.cgroup
        folder.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # Version 1: a new group has no CPU and no memory until it is given some.
            if (folder / name).exists() and not (folder / name).read_text().strip():
                (folder / name).write_text((hierarchy / name).read_text())


def kill_containers(node: Node) -> None:
    """Kills every process in the node's control groups and waits until they are gone."""

    def all_gone() -> bool:
        pids = {pid for folder in cgroups(node) for pid in (folder / "cgroup.procs").read_text().split()}
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    wait_until(all_gone, f"the containers of {node.name} to be killed", _KILL_SECONDS)


def remove_cgroups(node: Node) -> None:
    for folder in cgroups(node):
        folder.rmdir()


def hierarchies() -> list[Path]:
    """Where control groups are mounted: one place with version 2, many with version 1."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1]) for fields in lines if fields[2] in ("cgroup", "cgroup2")]


def mounts() -> list[str]:
    """Mount points below the cluster's folder, the deepest first."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted((fields[1] for fields in lines if fields[1].startswith(f"{STATE}/")), reverse=True)


def unmount_all() -> None:
    for point in mounts():
        run("umount", point)


def cgroups(node: Node) -> Iterator[Path]:
    """The node's control groups, children before their parents."""
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / node.cgroup, topdown=False):
            yield Path(folder)
