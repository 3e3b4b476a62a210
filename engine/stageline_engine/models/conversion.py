"""From the names in a checkpoint to the parameters of a model, as transformers' own conversion mapping says.

Some families store what the model holds as one parameter in many tensors (an expert's projections each by itself).
So each parameter has a list of sources: tensors, and where in the whole parameter they lie.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from stageline_engine.core.errors import UnsupportedModelError
from stageline_engine.models.tensor_parallel import Cut


@dataclass(frozen=True)
class Source:
    """A tensor of the checkpoint, and its place in a parameter."""

    name: str
    expert: int | None = None
    """Index in the parameter's first dimension, which the tensor lacks; None: it has all dimensions."""
    part: int = 0
    parts: int = 1
    """The tensor is number ``part`` of ``parts`` equal ones along the parameter's second dimension."""


@dataclass(frozen=True)
class Copy:
    """``local[target] = tensor(name)[source]``."""

    name: str
    source: tuple[slice, ...]
    target: tuple[slice | int, ...]


def sources_by_parameter(causal: PreTrainedModel, stored: Iterable[str]) -> dict[str, list[Source]]:
    """Map every tensor name of a checkpoint to a parameter name; names that the model lacks stay in, harmless.

    Raises:
        UnsupportedModelError: the family's conversion does more than stack experts.
    """
    transforms = get_model_conversion_mapping(causal)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    meta = causal.state_dict()
    found: dict[str, list[Source]] = {}
    experts_seen: dict[tuple[str, str], int] = {}
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, causal.base_model_prefix, meta)
        if pattern is None:
            found.setdefault(target, []).append(Source(name))
            continue
        converter = by_pattern[pattern]
        _check_stacks_experts(converter)
        expert = experts_seen.get((target, pattern), 0)
        experts_seen[target, pattern] = expert + 1
        part = converter.source_patterns.index(pattern)
        found.setdefault(target, []).append(Source(name, expert, part, len(converter.source_patterns)))
    return found


def _check_stacks_experts(converter: WeightConverter) -> None:
    kinds = [type(operation) for operation in converter.operations]
    dims = [getattr(operation, "dim", None) for operation in converter.operations]
    if (kinds, dims) not in (([MergeModulelist], [0]), ([MergeModulelist, Concatenate], [0, 1])):
        raise UnsupportedModelError(
            "model", ", ".join(converter.target_patterns), f"its weights need a conversion by {converter.operations}"
        )


def source_shape(source: Source, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a source of a parameter of ``shape`` must have."""
    if source.expert is None:
        return shape
    return (shape[1] // source.parts, *shape[2:])


def copies(source: Source, shape: tuple[int, ...], cut: Cut | None) -> list[Copy]:
    """What to copy of one source into a rank's part of a parameter of whole ``shape``."""
    extent = source_shape(source, shape)
    lead = () if source.expert is None else (source.expert,)
    offset = source.part * extent[0] if source.part else 0
    whole = [slice(0, size) for size in extent]
    target = [slice(offset, offset + extent[0]), *whole[1:]] if extent else []
    if cut is None:
        return [Copy(source.name, tuple(whole), (*lead, *target))]
    at = cut.dim - len(lead)
    assert at >= 0, f"{source.name}: a plan that divides the experts themselves"
    origin = offset if at == 0 else 0
    found = []
    filled = 0
    for start, end in cut.ranges:
        low, high = max(start, origin), min(end, origin + extent[at])
        if low < high:
            taken, placed = list(whole), list(target)
            taken[at] = slice(low - origin, high - origin)
            placed[at] = slice(filled + low - start, filled + high - start)
            found.append(Copy(source.name, tuple(taken), (*lead, *placed)))
        filled += end - start
    return found
