"""How tensor parallelism cuts a model: transformers' plan strings → the part of each parameter that a rank holds.

Pure arithmetic over names and shapes. The modules that join the ranks' results are in ``parallel_modules.py``.
Widths that the ranks do not divide are split unevenly (as numpy's array_split does); attention heads are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from stageline_engine.core.errors import ConfigurationError, UnsupportedModelError
from stageline_engine.models.architecture import Skeleton
from stageline_engine.planning.feasibility import tp_sizes

COLWISE = "colwise"
"""Output features are divided, the input is whole."""
ROWWISE = "rowwise"
"""Input features are divided; the partial results are summed, then the bias is added."""
COLWISE_GATHER = "colwise_gather_output"
"""As colwise, in equal parts (the last ones padded), and the output is gathered again."""
ROWWISE_SPLIT = "rowwise_split_input"
"""As rowwise, but the input is whole and each rank takes its part of it."""
PACKED_COLWISE = "packed_colwise"
"""As colwise for two projections stacked in one parameter: a rank holds its part of each."""
SUMMED_EXPERTS = "moe_tp_experts"
"""Experts whose parameters are cut by their own entries: their partial output is summed."""
WHOLE = frozenset({"replicate", "replicated_with_grad_allreduce", SUMMED_EXPERTS})
"""Styles that leave the module's own parameters whole."""

_KV_PROJECTIONS = ("k_proj", "v_proj")
_ATTENTION_INPUTS = ("q_proj", "qkv_proj", "query_key_value", *_KV_PROJECTIONS)


@dataclass(frozen=True)
class Cut:
    """A rank's part of a parameter: along ``dim`` the ranges ``[start, end)`` in turn, then zeros up to ``length``."""

    dim: int
    ranges: tuple[tuple[int, int], ...]
    length: int

    def local_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the part, for a whole of ``shape``."""
        return (*shape[: self.dim], self.length, *shape[self.dim + 1 :])


@dataclass(frozen=True)
class Heads:
    """Attention and KV heads of the whole model."""

    attention: int
    kv: int
    head_dim: int


def heads_of(config: PreTrainedConfig) -> Heads:
    """Read the head counts of a config; without GQA there are as many KV heads as attention heads."""
    attention = int(config.num_attention_heads)
    kv = int(getattr(config, "num_key_value_heads", None) or attention)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // attention)
    return Heads(attention, kv, head_dim)


class TensorPlan:
    """The plan of one model: which style each module or parameter has.

    Raises:
        UnsupportedModelError: the plan has a style that is not known here, whose cut could be wrong in silence.
    """

    def __init__(self, skeleton: Skeleton) -> None:
        config = skeleton.config
        base_plan = getattr(config, "base_model_tp_plan", None) or {}
        self._styles = {f"{skeleton.base_prefix}.{name}": style for name, style in base_plan.items()}
        self._styles.update(getattr(type(skeleton.causal), "_tp_plan", None) or {})
        self.heads = heads_of(config)
        self.has_plan = bool(base_plan)
        known = {COLWISE, ROWWISE, COLWISE_GATHER, ROWWISE_SPLIT, PACKED_COLWISE} | WHOLE
        self.unknown = sorted(set(self._styles.values()) - known)

    @property
    def kv_sharded(self) -> bool:
        """Whether the ranks divide the KV heads (else each holds all of them)."""
        return any(
            name.rsplit(".", 1)[-1] in _ATTENTION_INPUTS and style == COLWISE for name, style in self._styles.items()
        )

    def possible_sizes(self) -> tuple[int, ...]:
        """Numbers of ranks that this model can be cut into, ascending; always has 1."""
        if not self.has_plan or self.unknown:
            return (1,)
        return tp_sizes(self.heads.attention, self.heads.kv, self.kv_sharded)

    def check_size(self, size: int) -> None:
        """Refuse a number of ranks that cannot be.

        Raises:
            UnsupportedModelError: the plan has a style that is not known here.
            ConfigurationError: the heads cannot be divided so; names the sizes that are possible.
        """
        if size == 1:
            return
        if self.unknown or not self.has_plan:
            what = f"the styles {', '.join(self.unknown)}" if self.unknown else "no tensor-parallel plan"
            raise UnsupportedModelError("--tp", size, f"this model has {what}; use --tp 1")
        possible = self.possible_sizes()
        if size not in possible:
            heads = self.heads
            raise ConfigurationError(
                "--tp",
                size,
                f"{heads.attention} attention and {heads.kv} KV heads cannot be divided so; "
                f"possible sizes are {', '.join(map(str, possible))}",
            )

    def style(self, name: str) -> str | None:
        """The style of a module or parameter of the causal model, by full name; None: replicated."""
        return self._styles.get(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name))

    def parameter_style(self, name: str) -> str | None:
        """The style that cuts a parameter: its own, or that of its module; None: it is whole on every rank."""
        style = self.style(name) or self.style(name.rpartition(".")[0])
        return None if style in WHOLE else style

    def cut(self, name: str, shape: Sequence[int], rank: int, size: int) -> Cut | None:
        """The part of parameter ``name`` of ``shape`` that ``rank`` of ``size`` holds; None: all of it."""
        style = self.parameter_style(name)
        if style is None or size == 1:
            return None
        is_bias = name.endswith(".bias")
        if style in (ROWWISE, ROWWISE_SPLIT):
            return None if is_bias else _even(len(shape) - 1, shape[-1], rank, size)
        dim = max(len(shape) - 2, 0)
        width = shape[dim]
        if style == COLWISE_GATHER:
            return _padded(dim, width, rank, size)
        if style == PACKED_COLWISE:
            start, end = part(width // 2, rank, size)
            return Cut(dim, ((start, end), (width // 2 + start, width // 2 + end)), 2 * (end - start))
        if name.split(".")[-2] in _KV_PROJECTIONS and size > self.heads.kv:
            head = rank * self.heads.kv // size
            return Cut(dim, ((head * self.heads.head_dim, (head + 1) * self.heads.head_dim),), self.heads.head_dim)
        return _even(dim, width, rank, size)


def part(width: int, rank: int, size: int) -> tuple[int, int]:
    """Part ``rank`` of ``size`` of a width, ``[start, end)``; the first parts are longer by one where it is uneven."""
    base, longer = divmod(width, size)
    start = rank * base + min(rank, longer)
    return start, start + base + (rank < longer)


def _even(dim: int, width: int, rank: int, size: int) -> Cut:
    start, end = part(width, rank, size)
    return Cut(dim, ((start, end),), end - start)


def _padded(dim: int, width: int, rank: int, size: int) -> Cut:
    length = -(-width // size)
    start = min(rank * length, width)
    return Cut(dim, ((start, min(start + length, width)),), length)
