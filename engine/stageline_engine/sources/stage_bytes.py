"""Which bytes of a model's weight files a pipeline stage needs, by the names of the tensors. No torch.

Names, because a machine must know what to fetch before it can build anything. A tensor whose name says nothing is
needed by every stage: rather a little too much than a stage that cannot load. The tests hold every supported family
to exactly what its stages read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from stageline_engine.core.deployment import StageSpec
from stageline_engine.sources import spans
from stageline_engine.sources.integrity import read_header, weight_files
from stageline_engine.sources.spans import Span

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_EMBEDDINGS = frozenset({"embed_tokens", "embed_in"})
_HEADS = frozenset({"lm_head", "embed_out"})
_NORMS = frozenset({"norm", "final_layer_norm"})
"""Modules outside of the layers, as the supported families name them."""


@dataclass(frozen=True)
class Ends:
    """How a model's input embedding and output projection are stored."""

    tied: bool | None
    """The projection is the embedding, as the config says; None: it does not say."""
    embedding_stored: bool
    head_stored: bool

    @classmethod
    def of(cls, folder: Path, names: Iterable[str]) -> Self:
        """Read from a canonical folder's config, and the names of all of its tensors."""
        return cls.named(json.loads((folder / "config.json").read_text("utf-8")).get("tie_word_embeddings"), names)

    @classmethod
    def named(cls, tied: object, names: Iterable[str]) -> Self:
        """From the config's ``tie_word_embeddings`` and the names of all tensors."""
        modules = {_module(name) for name in names}
        return cls(
            tied if isinstance(tied, bool) else None,
            embedding_stored=not modules.isdisjoint(_EMBEDDINGS),
            head_stored=not modules.isdisjoint(_HEADS),
        )

    def need_embedding(self, spec: StageSpec) -> bool:
        """Whether a stage reads the stored embedding: the last one, too, unless the projection is another tensor."""
        return spec.is_first or (spec.is_last and (self.tied is not False or not self.head_stored))

    def need_head(self, spec: StageSpec) -> bool:
        """Whether a stage reads the stored projection; of tied models it is read where there is nothing else."""
        if self.embedding_stored:
            return spec.is_last and self.tied is not True
        return spec.is_first or spec.is_last


def needs(spec: StageSpec, name: str, ends: Ends) -> bool:
    """Whether a stage reads the tensor ``name``."""
    layer = _LAYER.search(name)
    if layer is not None:
        return spec.start <= int(layer[1]) < spec.end
    module = _module(name)
    if module in _EMBEDDINGS:
        return ends.need_embedding(spec)
    if module in _HEADS:
        return ends.need_head(spec)
    return spec.is_last or module not in _NORMS


def stage_bytes(folder: Path, spec: StageSpec) -> dict[Path, list[Span]]:
    """What a stage reads of each weight file of a canonical folder, without the headers.

    Raises:
        ModelSourceError: a file is missing or damaged.
    """
    headers = {file: read_header(file) for file in weight_files(folder)}
    ends = Ends.of(folder, (name for header in headers.values() for name in header.tensors))
    return {
        file: spans.union(header.span(name) for name in header.tensors if needs(spec, name, ends))
        for file, header in headers.items()
    }


def _module(name: str) -> str:
    return name.split(".")[-2] if "." in name else name
