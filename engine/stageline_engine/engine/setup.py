"""Before the loop: from a config to the settings of every rank, and to a started scheduler. No sockets here.

The launcher (client side) resolves the model and the cut, because a person's mistakes are best told there;
the core gets the finished :class:`CoreSetup`.
"""

from __future__ import annotations

import msgspec

from stageline_engine.core.config import EngineConfig
from stageline_engine.core.deployment import ModelProfile, RankSettings, StageSpec
from stageline_engine.planning.split import chunk_of


class CoreSetup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that an engine core process is started with; crosses to it as JSON on its standard input."""

    config: EngineConfig
    """With no ``auto`` or None left that the launcher could resolve."""
    model_folder: str
    model: str
    """The model's name by which other machines find the same files."""
    profile: ModelProfile
    specs: tuple[StageSpec, ...]
    eos_token_ids: tuple[int, ...]
    endpoint: str
    """ZeroMQ address that the launcher listens on."""

    @property
    def max_model_len(self) -> int:
        """Longest sequence in tokens."""
        return self.config.model.max_model_len or self.profile.max_model_len

    @property
    def token_budget(self) -> int:
        """Most rows of a micro-batch."""
        return chunk_of(self.config)


def rank_settings(setup: CoreSetup) -> list[RankSettings]:
    """One setting for each stage, in order."""
    config = setup.config
    return [
        RankSettings(
            model_folder=setup.model_folder,
            model=setup.model,
            spec=spec,
            dtype=config.model.dtype,
            device=config.parallel.device,
            threads=config.parallel.threads or 0,
            block_size=config.cache.block_size,
            max_model_len=setup.max_model_len,
            max_num_batched_tokens=setup.token_budget,
            max_num_seqs=config.scheduler.max_num_seqs,
            allow_unverified_architecture=config.model.allow_unverified_architecture,
            first_device=sum(earlier.tp for earlier in setup.specs[: spec.stage]),
        )
        for spec in setup.specs
    ]
