"""Kubernetes quantities as numbers, to compare amounts that are written differently."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_FACTORS: Final = (
    {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
    | {
        f"{prefix}{suffix}": Decimal(base) ** power
        for power, prefix in enumerate("kMGTPE", start=1)
        for suffix, base in (("", 1000), ("i", 1024))
        if prefix + suffix != "ki"
    }
    | {"Ki": Decimal(1024)}
)
_QUANTITY: Final = re.compile(r"([+-]?[0-9]*\.?[0-9]*)(?:[eE]([+-]?[0-9]+)|([a-zA-Z]*))")


def parse(quantity: str | int) -> Decimal:
    """The number that a quantity stands for: ``500m`` is 0.5, ``4Ki`` is 4096.

    Raises:
        ValueError: it is not a quantity.
    """
    match = _QUANTITY.fullmatch(str(quantity))
    factor = _FACTORS.get(match[3] or "") if match else None
    if match is None or factor is None or not match[1].strip("+-."):
        raise ValueError(f"{quantity!r} is not an amount such as 2, 500m or 4Gi")
    return Decimal(match[1]) * factor * Decimal(10) ** int(match[2] or 0)
