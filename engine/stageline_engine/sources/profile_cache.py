"""Profiles of models, computed once per config and kept as JSON, so that a second start needs no transformers."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from pathlib import Path

import msgspec

from stageline_engine.core.deployment import ModelProfile
from stageline_engine.sources import identity, store
from stageline_engine.sources.child import Child

PROFILER = "stageline_engine.models.profile_process"
"""By name: a process of its own runs it, and this package must not import models."""


def load_profile(folder: Path, allow_unverified: bool = False, *, progress: store.Progress) -> ModelProfile:
    """The profile of the model in a canonical folder; about 7 s the first time, then a few milliseconds.

    Raises:
        UnsupportedModelError: no parity test covers the architecture (unless ``allow_unverified``), or it cannot run.
        ModelSourceError: the config is damaged.
    """
    kept = store.root() / "profiles" / f"{_key(folder, allow_unverified)}.json"
    try:
        return msgspec.json.decode(kept.read_bytes(), type=ModelProfile)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    progress("profiling the model (once): importing torch and transformers")
    arguments = [str(folder), "1" if allow_unverified else "0"]
    profile = Child(PROFILER, arguments, ModelProfile, progress, value=str(folder)).to_end()
    _keep(kept, msgspec.json.encode(profile))
    return profile


def _key(folder: Path, allow_unverified: bool) -> str:
    """Changes with everything that the profile depends on: the config, transformers, and the code that computes it."""
    package = Path(__file__).parents[1]
    code = [*sorted((package / "models").glob("*.py")), package / "core" / "deployment.py"]
    return identity.of_small_files(
        [folder / "config.json", *code], importlib.metadata.version("transformers"), str(allow_unverified)
    )


def _keep(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
