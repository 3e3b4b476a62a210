"""What the last stage knows of a sequence in order to choose its tokens; made when it begins, gone when forgotten."""

from __future__ import annotations

import torch

from stageline_engine.core.messages import AdmitSequence


class SequenceSampling:
    """Parameters of one sequence, and, only where a penalty needs them, counts over the vocabulary.

    ``token_ids`` of a re-admission hold generated tokens too; they count as output.
    """

    __slots__ = (
        "bias", "choice", "has_adjustments", "has_penalties", "is_greedy", "is_in_prompt_V", "logprobs", "min_position",
        "num_prompt_tokens", "output_counts_V", "params", "prompt_logprobs", "prompt_token_ids", "seed", "silenced",
    )  # fmt: skip

    def __init__(self, admission: AdmitSequence, vocab_size: int, device: torch.device) -> None:
        params = admission.sampling
        assert params.seed is not None or params.is_greedy, "sampling without a seed cannot be repeated"
        self.params = params
        self.seed = params.seed or 0
        self.choice = admission.choice
        self.num_prompt_tokens = admission.num_prompt_tokens
        self.prompt_token_ids = admission.token_ids[: admission.num_prompt_tokens]
        self.logprobs = params.logprobs
        self.prompt_logprobs = params.prompt_logprobs
        self.is_greedy = params.is_greedy
        self.has_penalties = bool(
            params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        )
        self.is_in_prompt_V: torch.Tensor | None = None
        self.output_counts_V: torch.Tensor | None = None
        if self.has_penalties:
            self._count(admission, vocab_size, device)
        self.bias: tuple[torch.Tensor, torch.Tensor] | None = None
        if params.logit_bias:
            self.bias = (
                torch.tensor(list(params.logit_bias), dtype=torch.int64, device=device),
                torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device),
            )
        self.min_position = admission.num_prompt_tokens + params.min_tokens
        """Below it, a token that could end the sequence is not chosen."""
        ends = {token for token in (*admission.eos_token_ids, *params.stop_token_ids) if 0 <= token < vocab_size}
        self.silenced = (
            torch.tensor(sorted(ends), dtype=torch.int64, device=device) if params.min_tokens and ends else None
        )
        self.has_adjustments = self.has_penalties or self.bias is not None or self.silenced is not None

    def _count(self, admission: AdmitSequence, vocab_size: int, device: torch.device) -> None:
        tokens = torch.tensor(admission.token_ids, dtype=torch.int64, device=device)
        prompt, output = tokens[: admission.num_prompt_tokens], tokens[admission.num_prompt_tokens :]
        self.is_in_prompt_V = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.is_in_prompt_V[prompt] = True
        self.output_counts_V = torch.bincount(output, minlength=vocab_size).float()

    def saw(self, token: int) -> None:
        """Count a token that was chosen."""
        if self.output_counts_V is not None:
            self.output_counts_V[token] += 1
