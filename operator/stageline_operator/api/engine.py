"""Limits and settings of the engine: its flags, with the same names and meaning, in camelCase.

tests/contract feeds the arguments made from these to the engine's own parser. What is a flag and not here is decided
elsewhere: the cut (``pipeline``), names (``model``), addresses, keys and drain (the operator itself).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stageline_operator.api.base import ApiModel, Rule
from stageline_operator.api.values import Size


class Engine(ApiModel):
    """Limits and settings of the engine; each is a flag of `stageline serve` with the same meaning."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and activations. `auto`: the checkpoint's own on a GPU, float32 on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What the stages compute on. `auto`: GPUs when the stage asks for them, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads per tensor-parallel rank. Default: the pod's CPUs divided by its ranks, at least 1."""
    max_model_len: Annotated[int, Field(ge=2, le=16777216)] | None = None
    """Longest sequence, prompt and output together, in tokens. Default: what the model was made for."""
    max_num_seqs: Annotated[int, Field(ge=1, le=65536)] = 64
    """Sequences that run at the same time, over all micro-batches of a replica."""
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=1048576)] | None = None
    """Rows of one micro-batch, in tokens. Default: 1024 on a CPU with one stage, 256 with several; 2048 on a GPU."""
    micro_batches: Annotated[int, Field(ge=1, le=256)] | None = None
    """Micro-batches in flight. Default: chosen by predicted throughput."""
    max_waiting: Annotated[int, Field(ge=1, le=1048576)] = 1024
    """Sequences that may wait for admission; more requests are answered with 429."""
    block_size: Annotated[int, Field(ge=1, le=1024)] = 16
    """Tokens per block of the KV cache."""
    kv_memory: Size | None = None
    """Bytes of KV cache per tensor-parallel rank, e.g. `4Gi`. Default: what `maxNumSeqs` sequences of `maxModelLen`
    need, and at most a share of the memory that is free after loading."""
    enable_prefix_caching: bool = True
    """Keep blocks of finished sequences and use them again for equal prefixes."""
    seed: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    """Base of the seeds that requests without a seed of their own are given."""
    allow_unverified_architecture: bool = False
    """Run an architecture that has no parity test."""
    start_timeout: Annotated[int, Field(ge=1, le=86400)] = 600
    """Seconds without a sign of progress that fetching, loading and warm-up may take."""
    hang_timeout: Annotated[int, Field(ge=1, le=3600)] = 30
    """Seconds without progress of a step after which a stage counts as hung."""
    drain_timeout: Annotated[int, Field(ge=0, le=3600)] = 30
    """Seconds that running requests may take when a replica is drained. The pods' grace period follows from it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines of the logs of head and stages below it are not written. `debug` shows which requests each step has."""

    rules = (
        Rule(
            "!has(self.microBatches) || self.microBatches <= self.maxNumSeqs",
            "spec.engine.microBatches is above maxNumSeqs, so some could never hold a sequence; lower it, or raise"
            " maxNumSeqs",
            lambda engine: engine.micro_batches is None or engine.micro_batches <= engine.max_num_seqs,
        ),
        Rule(
            "self.hangTimeout <= self.startTimeout",
            "spec.engine.hangTimeout is above startTimeout; lower it",
            lambda engine: engine.hang_timeout <= engine.start_timeout,
        ),
    )
