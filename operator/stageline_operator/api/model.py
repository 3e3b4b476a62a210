"""Which model, and from where."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.refs import SecretKeyRef
from stageline_operator.api.values import ObjectName, Size, Text

_PART = r"[A-Za-z0-9][-_.A-Za-z0-9]*"
Source = Annotated[
    str,
    Text(
        512,
        1,
        rf"hf://{_PART}/{_PART}(@[-_./A-Za-z0-9]+)?|pvc://[a-z0-9][-.a-z0-9]*(/[^/@]*[^/@.][^/@]*)*"
        rf"|file://(/[^/@]*[^/@.][^/@]*)+|pip://{_PART}",
        "write hf://ORG/NAME, pvc://CLAIM/PATH, file:///PATH or pip://PACKAGE, without '..' or a '/' at the end",
    ),
]
Revision = Annotated[str, Text(128, 1, r"[-_./A-Za-z0-9]+", "write a commit, tag or branch")]


class ModelCache(ApiModel):
    """Where a downloaded and prepared model is kept in each pod."""

    claim_name: ObjectName | None = None
    """A PersistentVolumeClaim that all pods can mount (ReadWriteMany, or one node). Default: a folder that lives as
    long as the pod."""
    size_limit: Size | None = None
    """Largest size of that folder, in bytes. Default: no limit of its own."""

    rules = (
        Rule(
            "!has(self.claimName) || !has(self.sizeLimit)",
            "spec.model.cache.sizeLimit has no effect on a claim; leave it out, or leave claimName out",
            lambda cache: cache.claim_name is None or cache.size_limit is None,
        ),
    )


class Model(ApiModel):
    """Which model is served, where it comes from, and what clients call it."""

    source: Source
    """`hf://ORG/NAME` (Hugging Face hub), `pvc://CLAIM/PATH` (a PersistentVolumeClaim), `file:///PATH` (in the image),
    or `pip://PACKAGE` (a GGUF inside a Python package of the image)."""
    revision: Revision | None = None
    """Commit, tag or branch of an `hf://` source; only a commit pins it. Default: the part after `@` in the source,
    else the hub's default branch."""
    served_name: Annotated[str, Text(256, 1, r"[^\s]+", "write a name without spaces")] | None = None
    """Name that clients use in requests. Default: the last part of the source."""
    layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Number of layers that the model has. When given, the layers of all stages must add up to it. Default: not checked
    before the engine reads the model."""
    credentials: SecretKeyRef | None = None
    """Secret with the hub's token, for an `hf://` source. Mounted into the pods, never read by the operator."""
    cache: ModelCache = ModelCache()
    """Where a downloaded and prepared model is kept."""

    rules = (
        Rule(
            "!has(self.revision) || self.source.startsWith('hf://')",
            "spec.model.revision is for hf:// sources; leave it out",
            lambda model: model.revision is None or model.source.startswith("hf://"),
        ),
        Rule(
            "!has(self.revision) || !self.source.contains('@')",
            "spec.model.revision: the source has a revision after '@' already; keep one of the two",
            lambda model: model.revision is None or "@" not in model.source,
        ),
        Rule(
            "!has(self.credentials) || self.source.startsWith('hf://')",
            "spec.model.credentials are for hf:// sources; leave them out",
            lambda model: model.credentials is None or model.source.startswith("hf://"),
        ),
    )
