"""References to other objects of the resource's namespace, by name. The operator reads none of them."""

from __future__ import annotations

from typing import Annotated

from stageline_operator.api.base import ApiModel
from stageline_operator.api.values import ObjectName, Text

DataKey = Annotated[str, Text(253, 1, r"[-._A-Za-z0-9]+", "use letters, digits, '-', '_' and '.'")]


class ObjectRef(ApiModel):
    """An object of the resource's namespace."""

    name: ObjectName
    """Its name."""


class SecretKeyRef(ApiModel):
    """A key of a Secret. The pod mounts it; the operator never reads it."""

    name: ObjectName
    """Name of the Secret."""
    key: DataKey
    """Key in the Secret's data."""


class OptionalKeyRef(ApiModel):
    """A key of a Secret or ConfigMap that need not be there."""

    name: ObjectName
    """Name of the object."""
    key: DataKey
    """Key in its data."""
    optional: bool | None = None
    """Start the pod also when it does not exist. Default: false."""
