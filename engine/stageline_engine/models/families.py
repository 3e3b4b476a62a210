"""The architectures that have a parity test, and what each of them does that the common path does not. Data only.

To add a family: an entry here, a tiny model in ``tests/support/tiny_models.py``; the parity tests then run over it.
"""

from __future__ import annotations

import msgspec

from stageline_engine.core.errors import UnsupportedModelError


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What is particular to one architecture."""

    unit_after_first_stage: tuple[str, ...] = ()
    """Attributes of the base model that multiply whatever enters it; 1 on every stage but the first, whose input
    alone is an embedding."""
    kv_sharded: bool = True
    """Whether tensor-parallel ranks divide the heads; else each has all of them. transformers' plan decides it; what
    is written here tells it without torch."""


PLAIN = Family()

VERIFIED: dict[str, Family] = {
    "LlamaForCausalLM": PLAIN,
    "Qwen2ForCausalLM": PLAIN,
    "Qwen3ForCausalLM": PLAIN,
    "MistralForCausalLM": PLAIN,
    "Gemma3ForCausalLM": PLAIN,
    "Phi3ForCausalLM": Family(kv_sharded=False),
    "Olmo2ForCausalLM": Family(kv_sharded=False),
    "GraniteForCausalLM": Family(unit_after_first_stage=("embedding_multiplier",)),
    "GPTNeoXForCausalLM": PLAIN,
    "MixtralForCausalLM": PLAIN,
    "Qwen3MoeForCausalLM": PLAIN,
}


def family_of(architecture: str, allow_unverified: bool) -> Family:
    """The entry of ``architecture``; a plain one for others when ``allow_unverified``.

    Raises:
        UnsupportedModelError: no parity test covers it; names those that are covered.
    """
    family = VERIFIED.get(architecture)
    if family is None and not allow_unverified:
        raise UnsupportedModelError(
            "architecture",
            architecture,
            f"choose a model of {', '.join(VERIFIED)}, or try it with --allow-unverified-architecture",
        )
    return family or PLAIN
