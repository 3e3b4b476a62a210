"""Amounts: what a pod asks for, and how much of its memory is shared memory."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from stageline_operator.api import quantity
from stageline_operator.api.pod_settings import PodSettings
from stageline_operator.objects.metadata import Body

SHM_SHARE: Final = 4
"""/dev/shm gets at most one part in so many of the memory limit: it counts in that limit, and weights need the rest."""
SHM_MOST: Final = 8 * 1024**3
"""Bytes of /dev/shm that no collective library needs more of."""
SHM_DEFAULT: Final = 1024**3
"""Bytes of /dev/shm without a memory limit."""


def container_resources(settings: PodSettings) -> Body:
    """``resources`` of the engine's container."""
    if settings.resources is None:
        return {}
    return settings.resources.dump(exclude_defaults=True)


def shm_size(settings: PodSettings) -> str:
    """Largest size of /dev/shm, as a quantity in whole MiB."""
    limit = settings.resources.limits.get("memory") if settings.resources is not None else None
    size = Decimal(SHM_DEFAULT) if limit is None else min(quantity.parse(limit) / SHM_SHARE, Decimal(SHM_MOST))
    return f"{max(1, int(size) // 1024**2)}Mi"


def total_requests(pods: Iterable[PodSettings]) -> Body:
    """What the pods need together: the sum of their requests, or of their limits where they have no request."""
    sums: dict[str, Decimal] = {}
    for settings in pods:
        if settings.resources is not None:
            for key, amount in {**settings.resources.limits, **settings.resources.requests}.items():
                sums[key] = sums.get(key, Decimal(0)) + quantity.parse(amount)
    return {key: _canonical(amount) for key, amount in sorted(sums.items())}


def _canonical(amount: Decimal) -> str:
    """A whole number where it is one, else thousandths, rounded up as Kubernetes does."""
    if amount == amount.to_integral_value():
        return str(int(amount))
    return f"{-int(-amount * 1000 // 1)}m"
