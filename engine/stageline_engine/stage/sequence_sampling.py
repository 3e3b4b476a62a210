"""What the last stage knows of a sequence in order to choose its tokens; made when it begins, gone when forgotten."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import torch

from stageline_engine.core.messages import AdmitSequence


class SeenTokens:
    """The different tokens of a sequence, and how often each was generated; grows by one token at a time."""

    def __init__(self, prompt: list[int], output: list[int]) -> None:
        generated = Counter(output)
        different = list(dict.fromkeys((*prompt, *output)))
        self._index = {token: index for index, token in enumerate(different)}
        self._tokens: npt.NDArray[np.int64] = np.array(different, np.int64)
        self._counts: npt.NDArray[np.float32] = np.array([generated[token] for token in different], np.float32)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """Each token of prompt and output once."""
        return self._tokens[: len(self._index)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        """For each of ``tokens``, how often it was generated; 0 for those of the prompt alone."""
        return self._counts[: len(self._index)]

    def add(self, token: int) -> None:
        """Count a generated token."""
        index = self._index.setdefault(token, len(self._index))
        if index == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros(max(64, index), np.int64)))
            self._counts = np.concatenate((self._counts, np.zeros(max(64, index), np.float32)))
        self._tokens[index] = token
        self._counts[index] += 1


class SequenceSampling:
    """Parameters of one sequence, and, only where a penalty needs it, what tokens it has seen.

    ``token_ids`` of a re-admission hold generated tokens too; they count as output.
    """

    __slots__ = (
        "bias", "choice", "is_greedy", "logprobs", "min_position", "params", "prompt_logprobs", "prompt_token_ids",
        "seed", "seen", "silenced",
    )  # fmt: skip

    def __init__(self, admission: AdmitSequence, vocab_size: int, device: torch.device) -> None:
        params = admission.sampling
        assert params.seed is not None or params.is_greedy, "sampling without a seed cannot be repeated"
        prompt, output = (
            admission.token_ids[: admission.num_prompt_tokens],
            admission.token_ids[admission.num_prompt_tokens :],
        )
        self.params = params
        self.seed = params.seed or 0
        self.choice = admission.choice
        self.prompt_token_ids = prompt
        self.logprobs = params.logprobs
        self.prompt_logprobs = params.prompt_logprobs
        self.is_greedy = params.is_greedy
        has_penalty = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        self.seen = SeenTokens(prompt, output) if has_penalty else None
        self.bias: tuple[torch.Tensor, torch.Tensor] | None = None
        if params.logit_bias:
            self.bias = (
                torch.tensor(list(params.logit_bias), dtype=torch.int64, device=device),
                torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device),
            )
        self.min_position = len(prompt) + params.min_tokens
        """Below it, a token that could end the sequence is not chosen."""
        ends = {token for token in (*admission.eos_token_ids, *params.stop_token_ids) if 0 <= token < vocab_size}
        self.silenced = (
            torch.tensor(sorted(ends), dtype=torch.int64, device=device) if params.min_tokens and ends else None
        )

    def saw(self, token: int) -> None:
        """Count a token that was chosen."""
        if self.seen is not None:
            self.seen.add(token)
