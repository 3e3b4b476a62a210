"""CPU, memory and GPUs of a container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydantic import Field

from stageline_operator.api import quantity
from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.values import Amount, LabelKey

GPU_DOMAINS: Final = ("nvidia.com/", "amd.com/")
"""A resource whose name begins so is a GPU, or a part of one that is used like one."""
_OWN: Final = ("cpu", "memory", "ephemeral-storage")
"""Resources of Kubernetes itself that a container may ask for; all others have a domain in their names."""
_WHOLE: Final = "[0-9]+(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
"""Amounts that are whole numbers at first sight."""


def is_gpu(key: str) -> bool:
    """The resource of this name counts as a GPU: one of it for each tensor-parallel rank."""
    return key.startswith(GPU_DOMAINS)


def cel_is_gpu(key: str) -> str:
    """:func:`is_gpu` in CEL."""
    return "(" + " || ".join(f"{key}.startsWith('{domain}')" for domain in GPU_DOMAINS) + ")"


def _requests_within_limits(resources: Resources) -> bool:
    limits = resources.limits
    return all(
        key not in limits or quantity.parse(value) <= quantity.parse(limits[key])
        for key, value in resources.requests.items()
    )


def _devices_are_limits(resources: Resources) -> bool:
    return all(str(resources.limits.get(key)) == str(value) for key, value in resources.requests.items() if "/" in key)


def _names_are_known(resources: Resources) -> bool:
    return all("/" in key or key in _OWN for key in (*resources.requests, *resources.limits))


def _devices_are_whole(resources: Resources) -> bool:
    return all(re.fullmatch(_WHOLE, str(value)) for key, value in resources.limits.items() if "/" in key)


def _cel_names_are_known(amounts: str) -> str:
    return f"(!has({amounts}) || {amounts}.all(k, k.contains('/') || k in {list(_OWN)}))"


class Resources(ApiModel):
    """What the engine's container may use and is promised."""

    requests: dict[LabelKey, Amount] = Field(default_factory=dict, max_length=16)
    """Promised amounts by resource name (`cpu`, `memory`). Default: the limits."""
    limits: dict[LabelKey, Amount] = Field(default_factory=dict, max_length=16)
    """Largest amounts by resource name (`cpu`, `memory`, `nvidia.com/gpu`). The shared memory of a stage's ranks counts
    in `memory`."""

    rules = (
        Rule(
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits)"
            " || !isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k]))"
            " || !quantity(string(self.requests[k])).isGreaterThan(quantity(string(self.limits[k]))))",
            "resources.requests: an amount is above the one in resources.limits; lower it, or raise the limit",
            _requests_within_limits,
        ),
        Rule(
            "!has(self.requests) || self.requests.all(k, !k.contains('/') || (has(self.limits) && k in self.limits"
            " && string(self.limits[k]) == string(self.requests[k])))",
            "resources.requests: a device cannot be shared; give it in resources.limits alone, or there with the same"
            " number",
            _devices_are_limits,
        ),
        Rule(
            f"{_cel_names_are_known('self.requests')} && {_cel_names_are_known('self.limits')}",
            f"resources: a name without a domain is one of {', '.join(_OWN)}; correct it, or write DOMAIN/NAME",
            _names_are_known,
        ),
        Rule(
            "!has(self.limits) || self.limits.all(k, !k.contains('/')"
            f" || string(self.limits[k]).matches('^({_WHOLE})$'))",
            "resources.limits: devices are counted in whole numbers; write 1, not 500m or 1.5",
            _devices_are_whole,
        ),
        Rule(
            f"!has(self.limits) || self.limits.filter(k, {cel_is_gpu('k')}).size() <= 1",
            "resources.limits: more than one kind of GPU; a stage computes on one kind, keep one",
            lambda resources: sum(map(is_gpu, resources.limits)) <= 1,
        ),
    )


def gpus(limits: Mapping[str, str | int]) -> str | None:
    """The number of GPUs that limits ask for, as text; None when they ask for none."""
    return next((str(value) for key, value in limits.items() if is_gpu(key)), None)
