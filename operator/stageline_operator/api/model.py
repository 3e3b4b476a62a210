"""Which model, and from where."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.base import AmountOrNumber, ApiModel, ObjectName
from stageline_operator.api.pod_parts import SecretKeyRef


class ModelCache(ApiModel):
    """Where a downloaded and prepared model is kept in each pod."""

    claim_name: ObjectName | None = None
    """A PersistentVolumeClaim that all pods can mount (ReadWriteMany, or one node). Default: a folder that lives as
    long as the pod."""
    size_limit: AmountOrNumber | None = None
    """Largest size of that folder, without `claimName`. Default: no limit of its own."""


class Model(ApiModel):
    """Which model is served, where it comes from, and what clients call it."""

    source: Annotated[str, Field(min_length=1, max_length=512)]
    """`hf://ORG/NAME` (Hugging Face hub), `pvc://CLAIM/PATH` (a PersistentVolumeClaim), `file:///PATH` (in the image),
    or `pip://PACKAGE` (a GGUF inside a Python package of the image)."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit, tag or branch of an `hf://` source; a commit pins it. Default: the part after `@` in the source, else the
    hub's default branch."""
    served_name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Name that clients use in requests. Default: the last part of the source."""
    layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Number of layers that the model has. When given, the layer ranges of all stages must add up to it. Default: not
    checked before the engine reads the model."""
    credentials: SecretKeyRef | None = None
    """Secret with the hub's token, for an `hf://` source. Mounted into the pods, never read by the operator."""
    cache: ModelCache = ModelCache()
    """Where a downloaded model is kept."""
