"""Imports a model's class ahead of time, so that processes forked later have it."""

from __future__ import annotations

import transformers


def preload_class(architecture: str) -> None:
    """Import ``architecture`` of transformers; a name that it lacks is refused later, by whoever loads the model."""
    getattr(transformers, "AutoConfig", None)
    getattr(transformers, architecture, None)
