"""What a person can set of a running operator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``stageline-operator run``; the command documents them.

    Attributes:
        namespaces: () for all.
        state_seconds: between questions to heads: (while something progresses, otherwise).
    """

    kubeconfig: Path | None
    namespaces: tuple[str, ...]
    lease_name: str
    lease_namespace: str
    identity: str
    host: str
    port: int
    state_seconds: tuple[float, float]
