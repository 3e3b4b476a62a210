"""Profiles of well-known models, written down from their configs, for planning without files."""

from __future__ import annotations

from stageline_engine.core.config import (
    CacheConfig,
    EngineConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
)
from stageline_engine.core.deployment import LayerProfile, ModelProfile


def dense(
    *,
    layers: int,
    hidden: int,
    inner: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    tied: bool,
    possible_tp: tuple[int, ...],
    max_model_len: int = 8192,
    dtype: str = "bfloat16",
    kv_sharded: bool = True,
) -> ModelProfile:
    """A Llama-like model."""
    head_dim = hidden // heads
    matrices = hidden * hidden * 2 + 2 * kv_heads * head_dim * hidden + 3 * hidden * inner
    layer = LayerProfile(
        sharded_params=matrices,
        replicated_params=2 * hidden,
        active_params=matrices,
        kv_heads=kv_heads,
        head_dim=head_dim,
        kv_sharded=kv_sharded,
    )
    return ModelProfile(
        architecture="LlamaForCausalLM",
        layers=(layer,) * layers,
        hidden_size=hidden,
        vocab_size=vocab,
        attention_heads=heads,
        max_model_len=max_model_len,
        embedding_params=vocab * hidden,
        head_params=vocab * hidden + hidden,
        tied_embeddings=tied,
        possible_tp=possible_tp,
        checkpoint_dtype=dtype,
    )


SMOLLM2_135M = dense(
    layers=30, hidden=576, inner=1536, heads=9, kv_heads=3, vocab=49152, tied=True, possible_tp=(1, 3, 9)
)
LLAMA_70B = dense(
    layers=80,
    hidden=8192,
    inner=28672,
    heads=64,
    kv_heads=8,
    vocab=128256,
    tied=False,
    possible_tp=(1, 2, 4, 8, 16, 32, 64),
)


def config(
    *,
    stages: int = 1,
    tp: tuple[int, ...] = (1,),
    layer_split: tuple[int, ...] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int = 1,
    block_size: int = 16,
    kv_memory: int | None = None,
    max_num_seqs: int = 64,
    max_model_len: int | None = None,
    micro_batches: int | None = None,
    executor: str = "local",
) -> EngineConfig:
    """A resolved configuration."""
    return EngineConfig(
        model=ModelConfig(model="model", dtype=dtype, max_model_len=max_model_len),
        parallel=ParallelConfig(
            stages=stages, tp=tp, layer_split=layer_split, threads=threads, device=device, executor=executor
        ),
        cache=CacheConfig(block_size=block_size, kv_memory=kv_memory),
        scheduler=SchedulerConfig(max_num_seqs=max_num_seqs, micro_batches=micro_batches),
    )
