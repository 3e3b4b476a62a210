"""What the rest of the engine knows of a model's files."""

from __future__ import annotations

from pathlib import Path

import msgspec


class ModelFolder(msgspec.Struct, frozen=True):
    """A canonical folder: config.json, tokenizer.json, safetensors, all checked to be complete."""

    path: Path
    name: str
    """What clients call the model unless told otherwise: the last part of what the person named."""
