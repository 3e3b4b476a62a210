"""Gives a stage's skeleton its weights: this rank's part of each parameter of its layers, and nothing else.

Each rank reads only its slices from the files. What tensor parallelism does not divide, every rank reads whole.
"""

from __future__ import annotations

import logging
import re

import torch
from torch import nn

from stageline_engine.core.errors import ModelSourceError, UnsupportedModelError
from stageline_engine.models.architecture import Skeleton
from stageline_engine.models.conversion import Source, copies, source_shape, sources_by_parameter
from stageline_engine.models.tensor_group import TensorGroup
from stageline_engine.models.tensor_parallel import Cut, TensorPlan
from stageline_engine.models.weights import Checkpoint

log = logging.getLogger(__name__)


class WeightLoader:
    """Loads the parameters of one rank's part of a model.

    Make it while the skeleton is whole, and load after the parts of other stages were taken out.

    Raises:
        ModelSourceError: a file is damaged, a tensor is missing or has another shape than config.json says.
    """

    def __init__(self, skeleton: Skeleton, checkpoint: Checkpoint, plan: TensorPlan, group: TensorGroup) -> None:
        self._checkpoint = checkpoint
        self._plan = plan
        self._group = group
        self._causal = skeleton.causal
        self._sources = sources_by_parameter(skeleton.causal, checkpoint.tensors)
        self._follow_ties(skeleton)
        known_strangers = getattr(skeleton.causal, "_keys_to_ignore_on_load_unexpected", None) or []
        unused = sorted(self._sources.keys() - skeleton.causal.state_dict().keys())
        unused = [name for name in unused if not any(re.search(pattern, name) for pattern in known_strangers)]
        if unused:
            log.warning("%d tensors of the files have no place in the model, e.g. %s", len(unused), unused[0])

    def _follow_ties(self, skeleton: Skeleton) -> None:
        self.tied = bool(getattr(skeleton.config, "tie_word_embeddings", False))
        """The output projection is the input embedding."""
        if not self.tied:
            return
        embedding = f"{skeleton.base_prefix}.{skeleton.embedding}.weight"
        for tied, origin in (getattr(skeleton.causal, "_tied_weights_keys", None) or {}).items():
            if origin != embedding:
                raise UnsupportedModelError("tie_word_embeddings", True, f"{tied} is tied to {origin}")
            shared = self._sources.get(origin) or self._sources.get(tied)
            if shared:
                self._sources[origin] = self._sources[tied] = shared

    def load(self, dtype: torch.dtype, device: torch.device) -> None:
        """Replace every parameter that the skeleton still has on the meta device by this rank's part of it."""
        shared: dict[tuple[str, Cut | None], nn.Parameter] = {}
        for name, parameter in list(self._causal.named_parameters(remove_duplicate=False)):
            shape = tuple(parameter.shape)
            cut = self._plan.cut(name, shape, self._group.rank, self._group.size)
            sources = self._checked_sources(name, shape)
            key = (sources[0].name, cut)
            if key not in shared:
                local = self._from_shared(shared, sources[0], cut)
                if local is None:
                    local = self._read(sources, shape, cut, dtype, device)
                shared[key] = nn.Parameter(local, requires_grad=False)
            self._put(name, shared[key])

    def _checked_sources(self, name: str, shape: tuple[int, ...]) -> list[Source]:
        sources = self._sources.get(name)
        if not sources:
            raise ModelSourceError(
                "model", str(self._checkpoint.folder), f"its files lack {name}; fetch the model again"
            )
        for source in sources:
            stored = self._checkpoint.tensors[source.name]
            if stored.shape != source_shape(source, shape):
                raise ModelSourceError(
                    "model",
                    str(stored.file),
                    f"{source.name} has shape {stored.shape}, config.json says {source_shape(source, shape)}; "
                    "both must be of the same model",
                )
        covered = sum(self._checkpoint.tensors[source.name].numel for source in sources)
        if covered != torch.Size(shape).numel():
            raise ModelSourceError(
                "model", str(self._checkpoint.folder), f"its files lack a part of {name}; fetch the model again"
            )
        return sources

    def _from_shared(
        self, shared: dict[tuple[str, Cut | None], nn.Parameter], source: Source, cut: Cut | None
    ) -> torch.Tensor | None:
        """A rank's part of a tensor that it holds whole already (the tied embedding of a single stage)."""
        whole = shared.get((source.name, None))
        if whole is None or cut is None:
            return None
        local = whole.new_zeros(cut.local_shape(whole.shape))
        for copy in copies(source, tuple(whole.shape), cut):
            local[copy.target] = whole[copy.source]
        return local

    def _read(
        self, sources: list[Source], shape: tuple[int, ...], cut: Cut | None, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        local_shape = cut.local_shape(shape) if cut else shape
        is_padded = cut is not None and cut.length != sum(end - start for start, end in cut.ranges)
        local = (torch.zeros if is_padded else torch.empty)(local_shape, dtype=dtype, device=device)
        for source in sources:
            for copy in copies(source, shape, cut):
                local[copy.target] = self._checkpoint.read(copy.name, copy.source).to(device=device, dtype=dtype)
        return local

    def _put(self, name: str, parameter: nn.Parameter) -> None:
        owner_name, _, attribute = name.rpartition(".")
        owner = self._causal.get_submodule(owner_name)
        setattr(owner, attribute, parameter)
        if isinstance(owner, nn.Linear) and attribute == "weight":
            owner.out_features, owner.in_features = parameter.shape


def materialise_buffers(skeleton: Skeleton, device: torch.device) -> None:
    """Compute the buffers that no file has (rope frequencies, Gemma's embedding scale); parameters stay on meta.

    Raises:
        UnsupportedModelError: a buffer is neither stored nor computed by the model's own initialisation.
    """
    causal = skeleton.causal
    for name, module in causal.named_modules():
        buffers = {key: buffer for key, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not buffers:
            continue
        for key, buffer in buffers.items():
            # Not a number, so that a buffer that stays unwritten is noticed.
            value = torch.full_like(buffer, torch.nan, device=device) if buffer.is_floating_point() else None
            if value is None or key in causal.state_dict():
                raise UnsupportedModelError(
                    "architecture", skeleton.architecture, f"it has a stored buffer {name}.{key}"
                )
            module._buffers[key] = value
        causal._init_weights(module)
        for key in buffers:
            value = module._buffers[key]
            if value is None or value.isnan().any():
                raise UnsupportedModelError("architecture", skeleton.architecture, f"nothing computes {name}.{key}")
