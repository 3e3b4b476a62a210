"""What is decided or learnt while an engine starts: the cut of the model, and the facts of the running stages.

Pure values; made by :mod:`stageline_engine.planning` and the executors, read by everybody above `core`.
"""

from __future__ import annotations

import msgspec


class LayerProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One decoder layer, unsharded. Counts are of parameters or elements, not bytes."""

    sharded_params: int
    """Parameters that tensor parallelism divides."""
    replicated_params: int
    """Parameters that every tensor-parallel rank holds whole."""
    active_params: int
    """Matrix parameters that one token multiplies (mixture-of-experts layers: chosen experts only)."""
    kv_heads: int
    """KV heads; 0 for a layer without KV."""
    head_dim: int
    """Elements of one K (or V) head."""
    kv_sharded: bool = True
    """False: every rank holds all KV heads (Phi-3, OLMo-2). With True, ranks hold max(1, kv_heads / tp) heads."""
    sliding_window: int | None = None
    """Positions a row looks back; None: all."""


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What planning needs to know of a model; computed from its config on the meta device, without weights."""

    architecture: str
    """Class name as in config.json, e.g. ``LlamaForCausalLM``."""
    layers: tuple[LayerProfile, ...]
    hidden_size: int
    vocab_size: int
    attention_heads: int
    max_model_len: int
    """Longest sequence the model was made for, in tokens."""
    embedding_params: int
    """Input embedding: on stage 0, replicated over ranks."""
    head_params: int
    """Final norm and output projection: on the last stage. The projection is divided by tensor parallelism."""
    tied_embeddings: bool
    """The output projection is the input embedding (both ends hold it when they differ)."""
    possible_tp: tuple[int, ...]
    """Tensor-parallel sizes that divide heads and widths, ascending; always has 1."""
    checkpoint_dtype: str
    """``float32``, ``bfloat16`` or ``float16``."""


class StageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the model that one pipeline stage runs: layers ``[start, end)``."""

    stage: int
    num_stages: int
    start: int
    end: int
    tp: int

    @property
    def is_first(self) -> bool:
        """Stage 0 also embeds."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """The last stage also norms, projects and samples."""
        return self.stage == self.num_stages - 1


class RankSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank needs to load its part; the same for all ranks but for the stage."""

    model_folder: str
    """Canonical folder on this machine: config.json, *.safetensors."""
    spec: StageSpec
    dtype: str
    device: str
    threads: int
    """CPU threads of a rank; 0 until its own machine has decided."""
    block_size: int
    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    allow_unverified_architecture: bool = False
    model: str = ""
    """The model's name by which another machine finds the same files; "" where nobody has to."""
    first_device: int = 0
    """Number of the GPU that rank 0 takes; the others take those after it. Without effect on a CPU."""


class RankLoaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank says after it loaded its weights."""

    stage: int
    rank: int
    weight_bytes: int
    """Bytes that its weights occupy in memory."""
    bytes_read: int
    """Bytes that it read from the model's files."""
    kv_block_bytes: int
    """Bytes of one KV block over all layers of this rank."""
    free_bytes: int
    """Memory that is free for KV on this rank's device or machine."""
    load_seconds: float
