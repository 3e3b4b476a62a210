"""Names for prepared models: readable, and different whenever the content differs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FORMAT = 1
"""Goes up when a conversion writes something else for the same input, so that old results are not used."""

_SAMPLES = 256
_SAMPLE_BYTES = 65536


def slug(text: str) -> str:
    """``text`` as a file name: lower case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"


def file_name(label: str, identity: str) -> str:
    """Name of the folder for a model called ``label`` whose content has this identity."""
    return f"{slug(label)}-{identity[:12]}"


def of_commit(repository: str, commit: str) -> str:
    """Name of the folder for a repository of a hub at one commit."""
    return file_name(f"hub-{repository}", commit)


def of_large_file(path: Path) -> str:
    """Identity of a file of gigabytes in under a second: its size, and 16 MiB spread evenly over it.

    A full hash of a 40 GB file takes minutes. Two models of the same size differ in nearly all of their weights,
    so that samples tell them apart; the first and the last sample cover the header and the end.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(f"{FORMAT}:{size}:".encode())
    with path.open("rb") as file:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for index in range(_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * index // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def of_small_files(paths: list[Path], *extra: str) -> str:
    """Identity of whole files, in the given order, and of some text beside them."""
    digest = hashlib.sha256(f"{FORMAT}:".encode())
    for text in extra:
        digest.update(text.encode() + b"\0")
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()
