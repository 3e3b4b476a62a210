"""What a rank computes: the layers of one pipeline stage on packed rows, with embedding or head at the ends.

The stage calls the base model's own forward; layers of other stages are identities in it, so global layer indices,
layer types and windows hold. KV pool and rows reach the attention as keyword arguments through the layers.

Dimensions: T rows of a micro-batch, H hidden size, R rows to project, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from stageline_engine.cache.pool import KVLayer, KVPool
from stageline_engine.core.deployment import RankSettings
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.models.architecture import Skeleton, build_skeleton
from stageline_engine.models.layers import kv_layers
from stageline_engine.models.linear import pack_linears
from stageline_engine.models.norm import fuse_norms
from stageline_engine.models.parallel_modules import join_ranks
from stageline_engine.models.rope import fix_longrope
from stageline_engine.models.rows import RowBatch
from stageline_engine.models.stage_weights import WeightLoader, materialise_buffers
from stageline_engine.models.tensor_group import TensorGroup
from stageline_engine.models.tensor_parallel import TensorPlan
from stageline_engine.models.weights import Checkpoint


class StageModel:
    """One rank's part of a model. Make it with :func:`load_stage_model`."""

    def __init__(
        self,
        settings: RankSettings,
        skeleton: Skeleton,
        kv: list[KVLayer],
        bytes_read: int,
        weight_bytes: int,
        device: torch.device,
    ) -> None:
        self.spec = settings.spec
        self.kv_layers = kv
        """The layers that keep KV on this rank, in order."""
        self.bytes_read = bytes_read
        """Bytes that this rank read from the model's files."""
        self.weight_bytes = weight_bytes
        """Bytes that its weights occupy in memory; a tied embedding counts twice where the projection is packed."""
        self.vocab_size = int(skeleton.config.vocab_size)
        self.hidden_size = int(skeleton.config.hidden_size)
        self.dtype = getattr(torch, settings.dtype)
        self.device = device
        self._base = skeleton.base
        self._causal = skeleton.causal
        setattr(skeleton.causal, skeleton.base_prefix, _PassOn())

    # Saves 1 ms of 30 layers' host time. The logits are made without it, since samplers change them in place.
    @torch.inference_mode()
    def forward(self, rows: RowBatch, pool: KVPool, hidden_TH: torch.Tensor | None) -> torch.Tensor:
        """Run this stage's layers on one micro-batch; writes the rows' keys and values into ``pool``.

        The first stage embeds ``rows.token_ids_T``, others take ``hidden_TH`` of the stage before. Returns [T, H]:
        what the next stage takes, and on the last stage the normed hidden states for :meth:`logits`.
        """
        inputs: dict[str, torch.Tensor]
        if self.spec.is_first:
            inputs = {"input_ids": rows.token_ids_T.unsqueeze(0)}
        else:
            assert hidden_TH is not None, "only the first stage embeds"
            inputs = {"inputs_embeds": hidden_TH.unsqueeze(0)}
        output = self._base(**inputs, position_ids=rows.positions_T.unsqueeze(0), use_cache=False, rows=rows, pool=pool)
        return cast(torch.Tensor, output.last_hidden_state.squeeze(0))

    @torch.no_grad()
    def logits(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """Project normed hidden states of the last stage: float32 [R, V], the whole vocabulary on every rank.

        The causal class's own forward does it, so its scales and soft caps are in the result.
        """
        output = self._causal(inputs_embeds=hidden_RH.unsqueeze(0), use_cache=False)
        return cast(torch.Tensor, output.logits.squeeze(0).float())


class _PassOn(nn.Module):
    """Stands for the base model when the causal class only projects."""

    def forward(self, input_ids: None = None, *, inputs_embeds: torch.Tensor, **_: object) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)


class _ElsewhereLayer(nn.Module):
    """Stands for a layer of another stage."""

    def forward(self, hidden_1TH: torch.Tensor, **_: object) -> torch.Tensor:
        return hidden_1TH


def load_stage_model(settings: RankSettings, rank: int, group: TensorGroup) -> StageModel:
    """Build and load what ``rank`` of ``settings.spec`` holds.

    Raises:
        ModelSourceError: a file of the model is missing or damaged.
        UnsupportedModelError: the architecture cannot be run, or not cut so.
        ConfigurationError: ``--tp`` does not divide the heads, the layer range is not the model's, or there are more
            ranks than GPUs.
    """
    assert (group.rank, group.size) == (rank, settings.spec.tp), "the group is another stage's"
    skeleton = build_skeleton(settings.model_folder, settings.allow_unverified_architecture)
    spec, device = settings.spec, _device(settings, rank)
    if not 0 <= spec.start < spec.end <= len(skeleton.layers):
        raise ConfigurationError(
            "--layer-split", f"[{spec.start}, {spec.end})", f"the model has {len(skeleton.layers)} layers"
        )
    plan = TensorPlan(skeleton)
    plan.check_size(group.size)
    with Checkpoint(settings.model_folder) as checkpoint:
        loader = WeightLoader(skeleton, checkpoint, plan, group)
        _take_out_other_stages(skeleton, settings)
        widths = {
            name: (module.in_features, module.out_features)
            for name, module in skeleton.causal.named_modules()
            if isinstance(module, nn.Linear)
        }
        materialise_buffers(skeleton, device)
        loader.load(getattr(torch, settings.dtype), device)
    fix_longrope(skeleton.base, settings.max_model_len)
    _choose_experts_implementation(skeleton)
    kv = kv_layers(skeleton, plan, spec, group.size)
    if group.size > 1:
        join_ranks(skeleton.causal, "", plan, group, widths)
    fuse_norms(skeleton.causal)
    weight_bytes = _pack(skeleton.causal)
    return StageModel(settings, skeleton, kv, checkpoint.bytes_read, weight_bytes, device)


def _device(settings: RankSettings, rank: int) -> torch.device:
    """The CPU, or a GPU that no other rank of this machine has. The latter has not run on a GPU."""
    if settings.device != "cuda":
        return torch.device(settings.device)
    index, count = settings.first_device + rank, torch.cuda.device_count()
    if index >= count:
        raise ConfigurationError(
            "--device",
            settings.device,
            f"stage {settings.spec.stage} rank {rank} needs a GPU of its own, number {index + 1}, and this machine has "
            f"{count}: give fewer --stages or --tp, or --device cpu",
        )
    return torch.device("cuda", index)


def _take_out_other_stages(skeleton: Skeleton, settings: RankSettings) -> None:
    spec, base = settings.spec, skeleton.base
    for index in range(len(skeleton.layers)):
        if not spec.start <= index < spec.end:
            skeleton.layers[index] = _ElsewhereLayer()
    if not spec.is_first:
        setattr(base, skeleton.embedding, nn.Identity())
        for multiplier in skeleton.family.unit_after_first_stage:
            setattr(base, multiplier, 1.0)
    if not spec.is_last:
        for norm in skeleton.norms:
            setattr(base, norm, nn.Identity())
        skeleton.causal.set_output_embeddings(nn.Identity())


def _choose_experts_implementation(skeleton: Skeleton) -> None:
    """Fused experts where the kernel takes their strides, which must be multiples of 16 bytes."""
    experts = [p for name, p in skeleton.base.named_parameters() if p.ndim == 3 and ".experts." in name]
    aligned = all(p.shape[-1] * p.element_size() % 16 == 0 for p in experts)
    skeleton.config._experts_implementation = "grouped_mm" if aligned else "eager"


def _pack(causal: nn.Module) -> int:
    """Pack the linears, and count the bytes of all weights afterwards."""
    linears = {name: module.weight.nbytes for name, module in causal.named_modules() if isinstance(module, nn.Linear)}
    pack_linears(causal)
    still_dense = {name for name, module in causal.named_modules() if isinstance(module, nn.Linear)}
    packed = sum(size for name, size in linears.items() if name not in still_dense)
    kept = {parameter.data_ptr(): parameter.nbytes for parameter in causal.parameters() if not parameter.is_mkldnn}
    return packed + sum(kept.values())
