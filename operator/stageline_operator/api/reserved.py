"""What the operator gives every engine container itself, so that nobody else may: variables, volumes, paths, labels.

A setting here that also had a person's value would make one of the two without effect. ``objects`` uses these names.
"""

from __future__ import annotations

from typing import Final

RESERVED_ENV_PREFIXES: Final = ("STAGELINE_", "RAY_")
"""Variables that join the pods of a replica."""
RESERVED_ENV: Final = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN", "HF_TOKEN_PATH")
"""Variables that place caches on writable volumes, since the root file system is read-only, and the hub's token."""
RESERVED_VOLUME_PREFIX: Final = "stageline-"
"""Volumes of the operator begin so."""
MOUNT_TMP: Final = "/tmp"
"""emptyDir; sockets live here, so the path is short."""
MOUNT_SHM: Final = "/dev/shm"
"""Memory emptyDir, through which the ranks of a stage talk."""
MOUNT_MODEL: Final = "/model"
"""Claim of a ``pvc://`` source, read-only."""
MOUNT_CACHE: Final = "/cache"
"""Downloaded and prepared models; HOME and the caches lie here."""
MOUNT_SECRETS: Final = "/etc/stageline"
"""The group's keys, API keys and the hub's token, in folders of their own."""
RESERVED_MOUNTS: Final = (MOUNT_TMP, MOUNT_SHM, MOUNT_MODEL, MOUNT_CACHE, MOUNT_SECRETS)
"""Paths that a person's volume may not hide, nor lie in."""
RESERVED_LABEL_PREFIX: Final = "stageline.dev/"
"""Labels and annotations that mean something to the operator."""
