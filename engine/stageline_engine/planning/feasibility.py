"""Why a cut cannot work, said before anything is started."""

from __future__ import annotations

from collections.abc import Sequence

from stageline_engine.core.config import ParallelConfig
from stageline_engine.core.deployment import ModelProfile
from stageline_engine.core.errors import ConfigurationError


def check_cut(profile: ModelProfile, parallel: ParallelConfig) -> None:
    """Refuse more stages than layers, tensor-parallel sizes that do not divide the model, and splits that do not sum.

    Raises:
        ConfigurationError: names flag, value and what is possible.
    """
    check_stages(len(profile.layers), parallel)
    check_tp(profile.attention_heads, profile.possible_tp, parallel)


def tp_sizes(attention_heads: int, kv_heads: int, kv_sharded: bool) -> tuple[int, ...]:
    """Numbers of ranks that can share the heads of a model, ascending.

    Args:
        kv_sharded: the ranks divide queries, keys and values by heads; else each has all of them.
    """
    sizes = range(1, attention_heads + 1)
    if not kv_sharded:
        return tuple(sizes)
    return tuple(
        size for size in sizes if attention_heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)
    )


def check_tp(attention_heads: int, possible: Sequence[int], parallel: ParallelConfig) -> None:
    """The part of :func:`check_cut` for which the heads are enough.

    Raises:
        ConfigurationError: names flag, value and what is possible.
    """
    for stage in range(parallel.stages):
        if (ranks := parallel.tp_of(stage)) not in possible:
            raise ConfigurationError(
                "--tp",
                ranks,
                f"it does not divide the model ({attention_heads} attention heads): "
                f"possible are {', '.join(map(str, possible))}",
            )


def check_stages(num_layers: int, parallel: ParallelConfig) -> None:
    """The part of :func:`check_cut` for which the number of layers is enough.

    Raises:
        ConfigurationError: names flag, value and what is possible.
    """
    if parallel.stages > num_layers:
        raise ConfigurationError(
            "--stages", parallel.stages, f"the model has {num_layers} layers, so that at most {num_layers} are possible"
        )
    if parallel.layer_split is not None:
        _check_split(parallel.layer_split, parallel.stages, num_layers)


def _check_split(split: tuple[int, ...], stages: int, num_layers: int) -> None:
    shown = ",".join(map(str, split))
    if len(split) != stages:
        raise ConfigurationError("--layer-split", shown, f"give {stages} numbers, one for each stage of --stages")
    if min(split) < 1:
        raise ConfigurationError("--layer-split", shown, "each stage needs at least one layer")
    if sum(split) != num_layers:
        raise ConfigurationError("--layer-split", shown, f"it sums to {sum(split)}: the model has {num_layers} layers")
