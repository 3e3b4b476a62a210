"""What the rest of the engine knows of a model's files."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec


class ModelFolder(msgspec.Struct, frozen=True):
    """A canonical folder: config.json, tokenizer.json, safetensors, all checked to be there."""

    path: Path
    name: str
    """What clients call the model unless told otherwise: the last part of what the person named."""
    pinned: str
    """The name with which another machine finds the same files: a hub's model at its commit; else as it was given."""


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What config.json says by itself of how a model may be cut; None: only a profile can tell."""

    architecture: str | None
    layers: int | None
    attention_heads: int | None
    kv_heads: int | None


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a canonical folder, in milliseconds; a profile needs torch and takes many seconds."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None

    def count(name: str) -> int | None:
        value = config.get(name)
        return value if isinstance(value, int) and value > 0 else None

    return ModelShape(
        architecture=architecture if isinstance(architecture, str) else None,
        layers=count("num_hidden_layers"),
        attention_heads=count("num_attention_heads"),
        kv_heads=count("num_key_value_heads"),
    )
