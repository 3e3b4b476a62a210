"""A canonical model folder with random weights, written with numpy, for tests that look at files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def write_folder(folder: Path, *, shards: int = 1, indexed: bool = False) -> Path:
    """config.json, tokenizer.json and one tensor in each of ``shards`` safetensors files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    names = ["model.safetensors"] if shards == 1 else [shard_name(index, shards) for index in range(shards)]
    for index, name in enumerate(names):
        save_file({f"tensor.{index}": np.ones((3, 5), np.float32)}, folder / name)
    if indexed:
        weight_map = {f"tensor.{index}": name for index, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def write_named_tensors(folder: Path, names: list[str], config: dict[str, object]) -> Path:
    """config.json with changes, and a file with float32 tensors of 1, 2, 3, … elements."""
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | config))
    tensors = {name: np.ones((index + 1,), np.float32) for index, name in enumerate(names)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def shard_name(index: int, shards: int) -> str:
    """Name of one of several files, as transformers writes it."""
    return f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
