"""How much memory a rank may still take for its KV cache."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Memory free on ``device``: a GPU's own, or the machine's, within the limit of this process's control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = int(psutil.virtual_memory().available)
    limited = _free_in_cgroup(cgroup)
    return available if limited is None else min(available, limited)


def _free_in_cgroup(cgroup: Path) -> int | None:
    """What a control group (version 2) leaves, page cache that it can drop counted as free; None without a limit."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((cgroup / "memory.current").read_text())
        statistics = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(statistics["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return None
