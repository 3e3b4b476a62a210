"""Executors by name. Each is imported only when chosen: the inline one brings torch into the process."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from stageline_engine.core.config import EngineConfig
from stageline_engine.executor.base import Executor

EXECUTORS = {
    "local": "stageline_engine.executor.local:LocalExecutor",
    "ray": "stageline_engine.executor.ray:RayExecutor",
    "inline": "stageline_engine.executor.inline:InlineExecutor",
}


def make_executor(config: EngineConfig) -> Executor:
    """A new executor, as ``config`` names it."""
    module, _, attribute = EXECUTORS[config.parallel.executor].partition(":")
    made: Callable[..., Executor] = getattr(importlib.import_module(module), attribute)
    return made() if config.control is None else made(config.control)
