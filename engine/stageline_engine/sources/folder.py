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


def layer_count(folder: Path) -> int | None:
    """Decoder layers, as the config of a canonical folder names them; None: only a profile can tell."""
    count = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers")
    return count if isinstance(count, int) else None
