"""Serves language models through a pipeline of stages: see docs/architecture.md.

The names of the Python API are imported when first used, so that importing a part of the engine (a rank, a test of
the scheduler) costs only that part.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stageline_engine.client.async_engine import AsyncEngine
    from stageline_engine.client.launch import prepare
    from stageline_engine.client.llm import LLM, RequestOutput
    from stageline_engine.core.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
    from stageline_engine.core.request import SamplingParams

_CONFIG = "stageline_engine.core.config"
_HOMES = {
    "LLM": "stageline_engine.client.llm",
    "RequestOutput": "stageline_engine.client.llm",
    "AsyncEngine": "stageline_engine.client.async_engine",
    "prepare": "stageline_engine.client.launch",
    "SamplingParams": "stageline_engine.core.request",
    "CacheConfig": _CONFIG,
    "EngineConfig": _CONFIG,
    "ModelConfig": _CONFIG,
    "ParallelConfig": _CONFIG,
    "SchedulerConfig": _CONFIG,
}

__all__ = [
    "LLM",
    "AsyncEngine",
    "CacheConfig",
    "EngineConfig",
    "ModelConfig",
    "ParallelConfig",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
    "prepare",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
