"""One output of a request, as the scheduler sees it: its tokens, and how far plans have gone.

    token_ids          known tokens: prompt, then what came back
    + pending          sampled by steps that have not come back (one running, at most one planned ahead)
    = num_tokens       what plans may read
    num_planned        positions whose KV is written by plans sent so far; at most num_tokens

A sequence is waiting, then running: prefilling (num_planned < num_tokens - 1 or nothing sampled yet), then decoding
in a slot. Preemption sends it back to waiting with its tokens.
"""

from __future__ import annotations

from stageline_engine.core.messages import PromptLogprobs, TokenLogprobs
from stageline_engine.core.request import SamplingParams


class Sequence:
    """Mutable; owned by the scheduler alone.

    Args:
        seq: number, unique within an engine's life and ascending by arrival.
        max_tokens: longest that it may become, prompt included.
        digests: of the prompt's full blocks; extended as tokens become known.
        arrived: clock reading when the client sent it; None: its times are not measured.
        name: what log lines call its request.
        traced: whether the times of its steps are told.
    """

    __slots__ = (
        "admitted_at", "arrived", "blocks", "choice", "digests", "eos_token_ids", "finish_reason", "forget_step",
        "is_on_stages", "is_running", "last_step", "max_tokens", "name", "num_cached_tokens", "num_planned",
        "num_prompt_tokens", "num_registered", "pending", "prompt_logprobs", "request_id", "sample_step", "sampling",
        "seq", "slot", "stop_token_ids", "token_ids", "traced",
    )  # fmt: skip

    def __init__(
        self,
        seq: int,
        request_id: str,
        choice: int,
        prompt_token_ids: list[int],
        sampling: SamplingParams,
        eos_token_ids: tuple[int, ...],
        max_tokens: int,
        digests: list[bytes],
        arrived: float | None = None,
        name: str = "",
        traced: bool = False,
    ) -> None:
        self.seq = seq
        self.request_id = request_id
        self.choice = choice
        self.token_ids = list(prompt_token_ids)
        self.num_prompt_tokens = len(prompt_token_ids)
        self.sampling = sampling
        self.eos_token_ids = eos_token_ids
        self.stop_token_ids = frozenset(sampling.stop_token_ids)
        self.max_tokens = max_tokens
        self.digests = digests
        self.arrived = arrived
        self.name = name
        self.traced = traced
        self.admitted_at: float | None = None
        """Clock reading of the first plan that has it."""
        self.num_registered = 0
        """Full blocks at the front of ``blocks`` that the prefix cache was told of."""
        self.blocks: list[int] = []
        self.num_planned = 0
        self.pending: list[int] = []
        self.sample_step = 0
        """Step that yields the newest token, once it decodes."""
        self.last_step = 0
        """Newest step that has rows of this sequence."""
        self.forget_step = 0
        """Step whose plan told the stages to forget it, after a preemption."""
        self.is_on_stages = False
        """Stages hold its state: admitted, and not yet told to forget it."""
        self.is_running = False
        self.slot: int | None = None
        """Where its decode rows go; None while it waits, prefills, or has its last row in flight."""
        self.finish_reason: str | None = None
        self.num_cached_tokens: int | None = None
        """Prefix hits of the first admission; None before it."""
        self.prompt_logprobs: list[TokenLogprobs | None] | None = None
        """Collected until the first output carries them away."""
        if sampling.prompt_logprobs is not None:
            self.prompt_logprobs = [None] * self.num_prompt_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens that plans may read: known ones and those in flight."""
        return len(self.token_ids) + len(self.pending)

    @property
    def takes_prefix_hits(self) -> bool:
        """A request for prompt logprobs needs every prompt position computed."""
        return self.sampling.prompt_logprobs is None

    def store_prompt_logprobs(self, chunk: PromptLogprobs) -> None:
        """Keep a chunk's log probabilities; a recomputed prompt whose values went out already is ignored."""
        if self.prompt_logprobs is not None:
            self.prompt_logprobs[chunk.start : chunk.start + len(chunk.tokens)] = chunk.tokens

    def take_prompt_logprobs(self) -> list[TokenLogprobs | None]:
        """What the first output carries; empty from then on, and when not asked for."""
        taken = self.prompt_logprobs or []
        self.prompt_logprobs = None
        return taken

    def take_times(self, now: float) -> tuple[float | None, float | None]:
        """Seconds from arrival to admission, and from there to ``now``; nothing but for the first call."""
        arrived, self.arrived = self.arrived, None
        if arrived is None or self.admitted_at is None:
            return None, None
        return self.admitted_at - arrived, now - self.admitted_at

    def accept(self, token: int) -> tuple[str | None, int | None]:
        """Append a token that came back; returns (finish reason, stop token id) as in a sequence's output."""
        self.token_ids.append(token)
        if token in self.eos_token_ids and not self.sampling.ignore_eos:
            return "stop", None
        if token in self.stop_token_ids:
            return "stop", token
        if len(self.token_ids) >= self.max_tokens:
            return "length", None
        return None, None
