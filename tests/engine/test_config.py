"""The configuration that flags ask for."""

from __future__ import annotations

from stageline_engine.cli.options import EngineOptions, engine_config
from stageline_engine.core.config import EngineConfig, ModelConfig


def test_flags_that_are_not_given_leave_the_defaults_of_the_configuration() -> None:
    assert engine_config("x", EngineOptions()) == EngineConfig(model=ModelConfig(model="x"))
