"""Which children differ from what is desired: by the leaves that we set, and by the paths that we own.

A foreign field is left alone: it is neither in the desired body nor among the paths of our field manager.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from stageline_operator.api import quantity
from stageline_operator.decide.observed import Child

_KEYS: Final = ("uid", "name", "port", "key", "topologyKey")
"""Keys by which elements of a list are found again, the first that all have: others may add elements of their own."""
_AMOUNTS: Final = ("minResources", "requests", "limits", "sizeLimit")
"""Below these, texts are amounts: ``1000m`` is ``1``."""


def differs(desired: Mapping[str, Any], child: Child) -> str:
    """The first path in which a child is not as desired; "" when it is."""
    # Items of a LIST have neither apiVersion nor kind; a child of another kind would not have been found.
    fields = {key: value for key, value in desired.items() if key not in ("apiVersion", "kind")}
    return _first_difference(fields, child.body, "") or _first_left_over(desired, child)


def _first_difference(desired: Any, observed: Any, path: str, *, is_amount: bool = False) -> str:
    if isinstance(desired, dict):
        if not isinstance(observed, dict):
            return path
        for key, value in desired.items():
            below = f"{path}.{key}" if path else str(key)
            found = _first_difference(value, observed.get(key), below, is_amount=is_amount or key in _AMOUNTS)
            if found:
                return found
        return ""
    if isinstance(desired, list):
        return _list_difference(desired, observed, path)
    if desired == observed and type(desired) is type(observed):
        return ""
    if is_amount and observed is not None and quantity.parse(desired) == quantity.parse(observed):
        return ""
    return path


def _list_difference(desired: list[Any], observed: Any, path: str) -> str:
    if not isinstance(observed, list):
        return path
    key = next(
        (key for key in _KEYS if desired and all(isinstance(each, dict) and key in each for each in desired)), ""
    )
    if not key:
        if len(desired) != len(observed):
            return path
        pairs = list(zip(desired, observed, strict=True))
    else:
        by_key = {each.get(key): each for each in observed if isinstance(each, dict)}
        pairs = [(each, by_key.get(each[key])) for each in desired]
    for index, (wanted, found) in enumerate(pairs):
        if difference := _first_difference(wanted, found, f"{path}[{index}]"):
            return difference
    return ""


def _first_left_over(desired: Mapping[str, Any], child: Child) -> str:
    """A path that we own and no longer want: an apply without it takes it away."""
    for path in sorted(child.ours):
        value: Any = desired
        for step in path:
            if step == ".":
                break
            value = _follow(value, step)
            if value is _MISSING:
                return ".".join(path)
    return ""


_MISSING: Final = object()


def _follow(value: Any, step: str) -> Any:
    kind, _, rest = step.partition(":")
    if isinstance(value, list):
        if kind == "k":
            keys = json.loads(rest)
            return next(
                (each for each in value if all(each.get(key) == wanted for key, wanted in keys.items())), _MISSING
            )
        if kind == "v":
            return next((each for each in value if each == json.loads(rest)), _MISSING)
        if kind == "i" and rest.isdecimal() and int(rest) < len(value):
            return value[int(rest)]
        return _MISSING
    return value.get(step, _MISSING) if isinstance(value, dict) else _MISSING
