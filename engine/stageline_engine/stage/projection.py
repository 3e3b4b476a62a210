"""The end of the last stage: hidden states → logits → tokens and log probabilities → the step's result.

Dimensions: T rows of the micro-batch, H hidden size, R rows to project.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stageline_engine.core.messages import (
    AdmitSequence,
    PromptLogprobs,
    SampledToken,
    Segment,
    StepPlan,
    StepResult,
    TokenLogprobs,
)
from stageline_engine.models.stage_model import StageModel
from stageline_engine.stage.logprobs import token_logprobs
from stageline_engine.stage.sampler import sample
from stageline_engine.stage.sequence_sampling import SequenceSampling

PROMPT_CHUNK = 64
"""Prompt rows projected at once: bounds the logits of a chunk to 64 times the vocabulary."""


class Projection:
    """Chooses tokens. All ranks of the stage project together; only rank 0 samples.

    Args:
        is_sampling: this is rank 0.
    """

    def __init__(self, model: StageModel, is_sampling: bool) -> None:
        self._model = model
        self._is_sampling = is_sampling
        self._sequences: dict[int, SequenceSampling] = {}

    def begin(self, admission: AdmitSequence) -> None:
        """Take a sequence's sampling parameters and its tokens so far."""
        self._sequences[admission.seq] = SequenceSampling(admission, self._model.vocab_size, self._model.device)

    def forget(self, seq: int) -> None:
        """Drop what is known of a sequence."""
        del self._sequences[seq]

    def result(self, plan: StepPlan, hidden_TH: torch.Tensor) -> StepResult | None:
        """Project the rows that the plan and the requests ask for. None on ranks that do not sample."""
        placed = list(_with_rows(plan.segments))
        prompt_logprobs = [
            chunk
            for segment, first_row in placed
            if (chunk := self._prompt_logprobs(segment, hidden_TH[first_row : first_row + segment.length])) is not None
        ]
        sampling = [(segment, first_row + segment.length - 1) for segment, first_row in placed if segment.samples]
        tokens = self._sample([segment for segment, _ in sampling], [row for _, row in sampling], hidden_TH)
        if not self._is_sampling:
            return None
        return StepResult(plan.epoch, plan.step, plan.slot, tokens, prompt_logprobs)

    def _sample(self, segments: list[Segment], rows: list[int], hidden_TH: torch.Tensor) -> list[SampledToken]:
        if not segments:
            return []
        hidden_RH = hidden_TH if len(rows) == len(hidden_TH) else hidden_TH[torch.tensor(rows, device=hidden_TH.device)]
        logits_RV = self._model.logits(hidden_RH)
        if not self._is_sampling:
            return []
        sequences = [self._sequences[segment.seq] for segment in segments]
        asking = [row for row, sequence in enumerate(sequences) if sequence.logprobs is not None]
        raw_RV = logits_RV[torch.tensor(asking, device=logits_RV.device)] if asking else None
        positions = [segment.start + segment.length for segment in segments]
        token_ids = sample(logits_RV, sequences, positions).tolist()
        logprobs: dict[int, TokenLogprobs] = {}
        if raw_RV is not None:
            wanted = [sequences[row].logprobs or 0 for row in asking]
            found = token_logprobs(raw_RV, [token_ids[row] for row in asking], wanted)
            logprobs = dict(zip(asking, found, strict=True))
        for sequence, token in zip(sequences, token_ids, strict=True):
            sequence.saw(token)
        return [
            SampledToken(segment.seq, token, logprobs.get(row))
            for row, (segment, token) in enumerate(zip(segments, token_ids, strict=True))
        ]

    def _prompt_logprobs(self, segment: Segment, hidden_TH: torch.Tensor) -> PromptLogprobs | None:
        """What this segment's rows say of the prompt tokens that follow them."""
        sequence = self._sequences[segment.seq]
        if sequence.prompt_logprobs is None:
            return None
        targets = sequence.prompt_token_ids[segment.start + 1 : segment.start + 1 + segment.length]
        if not targets:
            return None
        tokens: list[TokenLogprobs] = []
        for start in range(0, len(targets), PROMPT_CHUNK):
            chunk = targets[start : start + PROMPT_CHUNK]
            logits_RV = self._model.logits(hidden_TH[start : start + len(chunk)])
            if self._is_sampling:
                tokens += token_logprobs(logits_RV, chunk, [sequence.prompt_logprobs] * len(chunk))
        return PromptLogprobs(segment.seq, segment.start + 1, tokens)


def _with_rows(segments: list[Segment]) -> Iterator[tuple[Segment, int]]:
    """Each segment with its first row."""
    row = 0
    for segment in segments:
        yield segment, row
        row += segment.length
