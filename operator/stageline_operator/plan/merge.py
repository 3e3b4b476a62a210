"""Joins pod settings: what a narrower place says wins. The rules are in api.pod_settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import TypeVar

from stageline_operator.api.pod_settings import CommonSettings, PodSettings
from stageline_operator.api.resources import Resources

T = TypeVar("T")


def merge(wide: CommonSettings, narrow: PodSettings) -> PodSettings:
    """``wide`` with everything that ``narrow`` sets; pure settings, whatever more the two types have.

    Not validated again: each part held for itself, and together they may be longer than one place may write.
    """
    return PodSettings.model_construct(
        resources=_resources(wide.resources if isinstance(wide, PodSettings) else None, narrow.resources),
        node_selector={**wide.node_selector, **narrow.node_selector},
        tolerations=_distinct((*wide.tolerations, *narrow.tolerations)),
        affinity=narrow.affinity or wide.affinity,
        runtime_class_name=narrow.runtime_class_name or wide.runtime_class_name,
        env=tuple({var.name: var for var in (*wide.env, *narrow.env)}.values()),
        volumes=tuple({volume.name: volume for volume in (*wide.volumes, *narrow.volumes)}.values()),
        volume_mounts=tuple(
            {mount.mount_path: mount for mount in (*wide.volume_mounts, *narrow.volume_mounts)}.values()
        ),
    )


def _resources(wide: Resources | None, narrow: Resources | None) -> Resources | None:
    if wide is None or narrow is None:
        return narrow or wide
    named = narrow.requests.keys() | narrow.limits.keys()
    return Resources.model_construct(
        requests={**_without(wide.requests, named), **narrow.requests},
        limits={**_without(wide.limits, named), **narrow.limits},
    )


def _without(amounts: Mapping[str, str | int], names: Set[str]) -> dict[str, str | int]:
    return {name: amount for name, amount in amounts.items() if name not in names}


def _distinct(items: Iterable[T]) -> tuple[T, ...]:
    kept: list[T] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return tuple(kept)
