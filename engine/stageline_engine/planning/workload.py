"""What a pipeline is expected to do: the mix of prefill and decode that splits and predictions are made for."""

from __future__ import annotations

import re

import msgspec

from stageline_engine.core.errors import ConfigurationError


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A typical request. Only the proportions matter for the split."""

    prompt_tokens: int = 64
    output_tokens: int = 128

    @property
    def context(self) -> int:
        """Tokens of KV that a decode row reads on average."""
        return max(1, self.prompt_tokens + self.output_tokens // 2)


DEFAULT_WORKLOAD = Workload()


def parse_workload(text: str) -> Workload:
    """``IN:OUT``, e.g. ``64:128``.

    Raises:
        ConfigurationError: ``text`` is something else.
    """
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if match is None or int(match[1]) + int(match[2]) == 0:
        raise ConfigurationError("--workload", text, "write prompt and output tokens of a request, e.g. 64:128")
    return Workload(prompt_tokens=int(match[1]), output_tokens=int(match[2]))
