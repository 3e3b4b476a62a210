"""Fused RMS norms answer as the families' own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.granite.modeling_granite import GraniteRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from stageline_engine.models.norm import FusedRMSNorm, fuse_norms

SIZE = 48


def _random(norm: nn.Module) -> nn.Module:
    assert isinstance(norm.weight, torch.Tensor)
    nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("family", [LlamaRMSNorm, Gemma3RMSNorm, GraniteRMSNorm, Olmo2RMSNorm, Qwen3RMSNorm])
@torch.no_grad()
def test_a_fused_norm_answers_as_the_familys_own(family: type[nn.Module]) -> None:
    torch.manual_seed(0)
    own = _random(family(SIZE, eps=1e-3))
    model = nn.ModuleDict({"norm": own})
    assert fuse_norms(model) == 1
    for rows in (torch.randn(1, 5, SIZE), 1e-3 * torch.randn(1, 2, 3, SIZE), 100 * torch.randn(2, SIZE)):
        torch.testing.assert_close(model["norm"](rows), own(rows), rtol=1e-5, atol=1e-6)


class _ClippedRMSNorm(LlamaRMSNorm):  # type: ignore[misc]  # mypy does not follow imports of transformers
    """Called alike, but something else."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = super().forward(hidden_states)
        return normed.clamp(-1.0, 1.0)


@torch.no_grad()
def test_a_norm_that_does_something_else_stays() -> None:
    model = nn.ModuleDict({"norm": _random(_ClippedRMSNorm(SIZE))})
    assert fuse_norms(model) == 0
    assert isinstance(model["norm"], _ClippedRMSNorm)


@torch.no_grad()
def test_norms_of_other_dtypes_stay() -> None:
    model = nn.ModuleDict({"inner": nn.ModuleDict({"norm": LlamaRMSNorm(SIZE).to(torch.bfloat16)})})
    assert fuse_norms(model) == 0


@torch.no_grad()
def test_norms_of_inner_modules_are_found() -> None:
    model = nn.ModuleDict({"layer": nn.ModuleDict({"a": _random(LlamaRMSNorm(SIZE)), "b": nn.Linear(2, 2)})})
    assert fuse_norms(model) == 1
    assert isinstance(model["layer"]["a"], FusedRMSNorm)  # type: ignore[index]
