"""The GPUs of this machine, asked of the driver's own command, so that the head needs no torch.

Tried with stand-ins for that command only: no test of it has run on a GPU yet.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.memory import MemoryLimit

COMMAND = "nvidia-smi"
QUERY = ("--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits")
ANSWER_SECONDS = 20
"""The command loads the driver where nothing else keeps it loaded."""


def visible_gpus() -> list[int] | None:
    """Free bytes of each GPU that a rank could use; None: there are some, and no more can be known here.

    ``CUDA_VISIBLE_DEVICES`` is followed as CUDA does: its first entry that names no GPU ends the list.
    """
    listed = _listed()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return None if listed is None else [free for _, free in listed]
    if not chosen.strip() or chosen.strip() == "-1":
        return []
    if listed is None or "MIG" in chosen:
        return None
    found = []
    for entry in map(str.strip, chosen.split(",")):
        if entry.isdecimal() and int(entry) < len(listed):
            found.append(listed[int(entry)][1])
        elif (
            entry.startswith("GPU-") and len(matching := [free for uuid, free in listed if uuid.startswith(entry)]) == 1
        ):
            found += matching
        else:
            break
    return found


def check_gpu_count(config: EngineConfig, gpus: list[int] | None) -> None:
    """Refuse more ranks than GPUs: each rank has one of its own.

    Raises:
        ConfigurationError: names both numbers.
    """
    ranks = config.parallel.num_ranks
    if gpus is not None and len(gpus) < ranks:
        raise ConfigurationError(
            "--device",
            config.parallel.device,
            f"{ranks} {'ranks need a GPU each' if ranks > 1 else 'rank needs a GPU'}, and this machine has {len(gpus)} "
            "to use: give fewer --stages or --tp, or --device cpu",
        )


def gpu_limit(gpus: list[int]) -> MemoryLimit:
    """What a rank may take at most.

    Which rank gets which GPU is CUDA's to say, so the emptiest one counts: only what can fit nowhere is refused, and a
    rank whose own GPU is too full says so when it loads.
    """
    return MemoryLimit(
        bytes=max(gpus),
        flag="--device",
        value="cuda",
        source="what is free on this machine's GPU" if len(gpus) == 1 else f"the emptiest of {len(gpus)} GPUs",
    )


def _listed() -> list[tuple[str, int]] | None:
    """Identity and free bytes of every GPU; None when the command cannot tell although device files are there."""
    if (command := shutil.which(COMMAND)) is not None:
        try:
            shown = subprocess.run(
                [command, *QUERY], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True
            ).stdout
            rows = [line.split(",") for line in shown.splitlines() if line.strip()]
            return [(uuid.strip(), int(mebibytes) << 20) for uuid, mebibytes in rows]
        except (OSError, subprocess.SubprocessError, ValueError):
            pass
    return None if any(Path("/dev").glob("nvidia[0-9]*")) else []
