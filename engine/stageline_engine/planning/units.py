"""Bytes, as people write and read them."""

from __future__ import annotations

import re

from stageline_engine.core.errors import ConfigurationError

_FACTORS = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("", 1000), ("b", 1000), ("i", 1024), ("ib", 1024))
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")


def parse_bytes(flag: str, text: str) -> int:
    """``4GiB``, ``4Gi``, ``500MB``, ``1.5G`` or a plain number of bytes. ``i`` means powers of 1024.

    Raises:
        ConfigurationError: ``text``, given for ``flag``, is not such a size.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ConfigurationError(flag, text, "write a size such as 4GiB, 500MB or a number of bytes")
    return int(float(match[1]) * factor)


def show_bytes(count: float) -> str:
    """Three digits and a unit of 1024, e.g. ``1.25 GiB``."""
    if abs(count) < 1000:
        return f"{count:.0f} B"
    power = 1
    while abs(count) / 1024**power >= 1000 and power < 4:
        power += 1
    value = count / 1024**power
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"
