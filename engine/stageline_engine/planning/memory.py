"""Bytes: weights of a rank, KV of a token, and how many KV blocks all ranks can have."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stageline_engine.core.blocks import NUM_SCRATCH_BLOCKS
from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile, RankLoaded, StageSpec
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.planning.costs import kv_elements
from stageline_engine.planning.devices import DTYPE_BYTES
from stageline_engine.planning.units import show_bytes

FREE_SHARE_FOR_KV = 0.6
"""Share of what weights leave of a machine's memory that KV takes; activations and other programs need some."""
MEMORY_SHARE = 0.9
"""Share of a GPU's memory that weights and KV may take together; the rest is for activations."""
STORED_SHARE = 0.5
"""Part of a file's numbers that a model needs at the very least: files may hold a tied head once more, or buffers."""


class MemoryLimit(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank has for weights and KV."""

    bytes: int
    flag: str = "--memory"
    """The flag that decides it, and what the person gave for it."""
    value: str = ""
    source: str
    """Where the figure comes from, for a person."""
    is_shared: bool = False
    """A rank's part of a machine that does other things too: see :func:`kv_budgets`."""

    @property
    def is_measured(self) -> bool:
        """Read from this machine, not told by the person."""
        return self.is_shared or self.flag == "--device"

    def kv_bytes(self, weight_bytes: int) -> int:
        """What is left for KV beside weights; below 0 when not even they fit."""
        if self.is_shared:
            free = self.bytes - weight_bytes
            return int(free * FREE_SHARE_FOR_KV) if free > 0 else free
        return int(self.bytes * MEMORY_SHARE) - weight_bytes


def machine_limit(config: EngineConfig, free: int) -> MemoryLimit:
    """What each CPU rank may take of a machine on which ``free`` bytes are free."""
    ranks = config.parallel.num_ranks
    return MemoryLimit(
        bytes=free // ranks,
        flag="model",
        value=config.model.model,
        source="what is free on this machine" + (f", divided by {ranks} ranks" if ranks > 1 else ""),
        is_shared=True,
    )


def kv_budgets(
    profile: ModelProfile, specs: Sequence[StageSpec], config: EngineConfig, limit: MemoryLimit
) -> list[int]:
    """Bytes that are left for KV on each rank of each stage; below 0 where not even weights fit.

    Ranks of a machine share its memory: what the weights of all of them leave is divided equally. All of
    it counts where ``--kv-memory`` is given, which :func:`kv_blocks` checks.
    """
    weights = [stage_weight_bytes(profile, spec, DTYPE_BYTES[config.model.dtype]) for spec in specs]
    if limit.is_shared:
        of_all = sum(weight * spec.tp for weight, spec in zip(weights, specs, strict=True))
        weights = [of_all // config.parallel.num_ranks] * len(specs)
    if limit.is_measured and config.cache.kv_memory is not None:
        return [limit.bytes - weight for weight in weights]
    return [limit.kv_bytes(weight) for weight in weights]


def stage_weight_bytes(profile: ModelProfile, spec: StageSpec, element: int) -> int:
    """Bytes of weights of each rank of a stage. ``element``: bytes of one parameter."""
    params = 0
    for layer in profile.layers[spec.start : spec.end]:
        params += -(-layer.sharded_params // spec.tp) + layer.replicated_params
    if spec.is_first:
        params += profile.embedding_params
    if spec.is_last:
        is_shared = spec.is_first and profile.tied_embeddings
        projection = profile.vocab_size * profile.hidden_size
        params += max(0, profile.head_params - projection) if is_shared else -(-profile.head_params // spec.tp)
    return params * element


def kv_bytes_per_token(profile: ModelProfile, spec: StageSpec, element: int) -> int:
    """Bytes of KV that each rank of a stage keeps of one token."""
    return sum(kv_elements(layer, spec.tp) for layer in profile.layers[spec.start : spec.end]) * element


def blocks_of(tokens: int, block_size: int) -> int:
    """Blocks that hold ``tokens`` tokens of one sequence."""
    return -(-tokens // block_size)


def check_stored_size(elements: int, config: EngineConfig, limit: MemoryLimit) -> None:
    """Refuse a model of which even a part fits nowhere, by what its files hold: known before it is profiled.

    Args:
        elements: numbers in the model's files.
        config: with ``device`` resolved.

    Raises:
        ConfigurationError: names what is needed and what is there.
    """
    dtype = config.model.dtype
    if dtype == "auto":
        dtype = "float32" if config.parallel.device == "cpu" else "float16"
    there = limit.bytes * config.parallel.num_ranks
    if elements * STORED_SHARE * DTYPE_BYTES[dtype] > there:
        raise ConfigurationError(
            limit.flag,
            limit.value,
            f"its files hold {show_bytes(elements * DTYPE_BYTES[dtype])} of weights in {dtype}, and all ranks together "
            f"have {show_bytes(there)}: {_remedy(limit)}",
        )


def check_kv_memory(profile: ModelProfile, specs: Sequence[StageSpec], config: EngineConfig) -> None:
    """Refuse a ``--kv-memory`` that cannot hold one sequence of full length.

    Raises:
        ConfigurationError: names the stage that needs the most, and what it needs.
    """
    given = config.cache.kv_memory
    needed, stage = max((least_kv_bytes(profile, spec, config), spec.stage) for spec in specs)
    if given is not None and given < needed:
        longest = config.model.max_model_len or profile.max_model_len
        raise ConfigurationError(
            "--kv-memory",
            given,
            f"stage {stage} needs {show_bytes(needed)} per rank for the KV of one sequence of {longest} tokens: "
            "give a larger --kv-memory or a smaller --max-model-len",
        )


def least_kv_bytes(profile: ModelProfile, spec: StageSpec, config: EngineConfig) -> int:
    """KV of one sequence of full length, beside the scratch block: with less, such a request could never run."""
    longest = config.model.max_model_len or profile.max_model_len
    blocks = blocks_of(longest, config.cache.block_size) + NUM_SCRATCH_BLOCKS
    return blocks * config.cache.block_size * kv_bytes_per_token(profile, spec, DTYPE_BYTES[config.model.dtype])


def check_memory(profile: ModelProfile, specs: Sequence[StageSpec], config: EngineConfig, limit: MemoryLimit) -> None:
    """Refuse a cut whose weights, or weights and one sequence of full length, do not fit.

    Raises:
        ConfigurationError: names the missing bytes of each stage, and the longest sequence that would fit.
    """
    lines = []
    for spec, available in zip(specs, kv_budgets(profile, specs, config, limit), strict=True):
        kv, what = least_kv_bytes(profile, spec, config), "KV of one sequence of full length"
        if config.cache.kv_memory is not None:
            kv, what = config.cache.kv_memory, "--kv-memory"
        if kv > available:
            weights = stage_weight_bytes(profile, spec, DTYPE_BYTES[config.model.dtype])
            lines.append(
                f"stage {spec.stage} misses {show_bytes(kv - available)} per rank (weights {show_bytes(weights)}, "
                f"{what} {show_bytes(kv)})"
            )
    if not lines:
        return
    remedy = _remedy(limit)
    if limit.is_measured:
        lines.append(f"a rank has {show_bytes(limit.bytes)} ({limit.source})")
    if (fitting := min(capacity_tokens(profile, specs, config, limit))) > 0:
        remedy += f", or a --max-model-len of at most {fitting}"
    flag, value = limit.flag, limit.value or show_bytes(limit.bytes)
    if config.cache.kv_memory is not None:
        flag, value, remedy = "--kv-memory", str(config.cache.kv_memory), f"give less, or {remedy}"
    raise ConfigurationError(flag, value, f"{'; '.join(lines)}: {remedy}")


def _remedy(limit: MemoryLimit) -> str:
    if limit.is_shared:
        return "take a machine with more memory, a smaller model or a 16-bit --dtype"
    return "give more --stages, --tp or memory"


def capacity_tokens(
    profile: ModelProfile, specs: Sequence[StageSpec], config: EngineConfig, limit: MemoryLimit
) -> list[int]:
    """Tokens of KV that the ranks of each stage can hold beside their weights; the least of them is the pipeline's."""
    element = DTYPE_BYTES[config.model.dtype]
    block = config.cache.block_size
    tokens = []
    for spec, budget in zip(specs, kv_budgets(profile, specs, config, limit), strict=True):
        per_block = kv_bytes_per_token(profile, spec, element) * block
        tokens.append(max(0, budget // per_block - NUM_SCRATCH_BLOCKS) * block if per_block else 0)
    return tokens


def kv_blocks(loaded: Sequence[RankLoaded], config: EngineConfig, max_model_len: int) -> int:
    """KV blocks that every rank can hold, and not more than ``max_num_seqs`` sequences of full length can use; the
    scratch block is one of them.

    ``--kv-memory`` is taken as it is. Without it, KV takes what :meth:`MemoryLimit.kv_bytes` leaves, as in a plan: on
    a CPU the ranks share what is free on the machine, and on GPUs each rank has a GPU of its own.

    Raises:
        ConfigurationError: one sequence of ``max_model_len`` tokens does not fit; names the missing bytes and the flag.
    """
    one_sequence = blocks_of(max_model_len, config.cache.block_size)
    least = one_sequence + NUM_SCRATCH_BLOCKS
    useful = one_sequence * config.scheduler.max_num_seqs + NUM_SCRATCH_BLOCKS
    ranks = [rank for rank in loaded if rank.kv_block_bytes]
    if not ranks:
        return useful
    budgets = [_kv_budget(rank, config, _sharing(rank, loaded, config)) for rank in ranks]
    blocks, tightest = min(
        (budget // rank.kv_block_bytes, index) for index, (rank, budget) in enumerate(zip(ranks, budgets, strict=True))
    )
    if blocks < least:
        rank = ranks[tightest]
        missing = show_bytes(least * rank.kv_block_bytes - budgets[tightest])
        where = (
            f"stage {rank.stage} rank {rank.rank} misses {missing} for the KV of one sequence of {max_model_len} tokens"
        )
        if config.cache.kv_memory is not None:
            remedy = f"{where}: give a larger --kv-memory or a smaller --max-model-len"
            raise ConfigurationError("--kv-memory", config.cache.kv_memory, remedy)
        remedy = f"{where}, {show_bytes(rank.free_bytes)} are free: give a smaller --max-model-len or more --stages"
        raise ConfigurationError("--max-model-len", max_model_len, remedy)
    return min(blocks, useful)


def _sharing(rank: RankLoaded, loaded: Sequence[RankLoaded], config: EngineConfig) -> int:
    """Ranks that have the free memory of ``rank`` together."""
    if config.parallel.device != "cpu":
        return 1
    if config.parallel.executor == "ray":
        return sum(other.stage == rank.stage for other in loaded)
    return len(loaded)


def _kv_budget(rank: RankLoaded, config: EngineConfig, sharing: int) -> int:
    own = rank.free_bytes // sharing
    wanted = config.cache.kv_memory
    if wanted is None:
        memory = MemoryLimit(bytes=own + rank.weight_bytes, source="", is_shared=config.parallel.device == "cpu")
        return memory.kv_bytes(rank.weight_bytes)
    if wanted > own:
        raise ConfigurationError(
            "--kv-memory",
            wanted,
            f"stage {rank.stage} rank {rank.rank} has {show_bytes(own)} free after loading: "
            f"{show_bytes(wanted - own)} are missing",
        )
    return wanted
