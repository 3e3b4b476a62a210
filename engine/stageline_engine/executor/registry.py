"""Executors by name. Each is imported only when chosen: the inline one brings torch into the process."""

from __future__ import annotations

import importlib

from stageline_engine.executor.base import Executor

EXECUTORS = {
    "local": "stageline_engine.executor.local:LocalExecutor",
    "inline": "stageline_engine.executor.inline:InlineExecutor",
}


def make_executor(name: str) -> Executor:
    """A new executor; ``name`` is a key of EXECUTORS."""
    module, _, attribute = EXECUTORS[name].partition(":")
    executor: Executor = getattr(importlib.import_module(module), attribute)()
    return executor
