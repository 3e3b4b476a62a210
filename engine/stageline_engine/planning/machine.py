"""How much of this machine's memory is free for ranks: read from the system, within the limits of a container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil


def free_machine_bytes() -> int:
    """Memory that is free on this machine, within the limits of this process's control groups."""
    available = int(psutil.virtual_memory().available)
    return min([available, *cgroup_free_bytes(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def cgroup_free_bytes(membership: Path, mount: Path) -> Iterator[int]:
    """What each control group of a process, and each group above it, leaves of its memory limit.

    Page cache that a group can drop counts as free. Groups without a limit, and what cannot be read, are left out.

    Args:
        membership: /proc/PID/cgroup.
        mount: where control groups are mounted, version 1 or 2.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # Version 2 has one hierarchy without a name; in version 1 each controller has its own.
        if controllers == "":
            root, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            root = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            left = _left(folder, *names)
            if left is not None:
                yield left
            if folder == root:
                break


def _left(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max":
            return None
        used = int((folder / usage_name).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(statistics[cache_name]))
    except (OSError, ValueError, KeyError):
        return None
