"""From logits to tokens, on the last stage; all rows of a micro-batch at once.

The order in which a row's parameters act on its logits:

    raw logits ──▶ log probabilities that are reported
      1. repetition penalty      tokens of prompt or output: divided where positive, multiplied where negative
      2. frequency, presence     output only: − count · frequency − (count > 0) · presence
      3. logit_bias              added
      4. min_tokens              end-of-sequence and stop tokens: −inf until so many tokens were generated
      temperature 0: the largest wins; else
      5. temperature             divided by it
      6. min_p                   −inf where p < min_p · largest p
      7. top_k                   −inf where below the k-th largest; equal ones stay
      8. top_p                   the smallest set of most likely tokens, of those left, whose probabilities reach
                                 top_p; what equals its last one stays
      9. Gumbel-max              see :func:`draw`

Dimensions: R rows, V vocabulary, G groups of tokens, E tokens of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stageline_engine.stage import noise
from stageline_engine.stage.sequence_sampling import SequenceSampling

GROUP = 256
"""Tokens of a group in :func:`draw`; part of what a seed means, so never to be changed."""
NUCLEUS_TRY = 256
"""Largest logits looked at first for top_p; only rows whose nucleus is larger are sorted whole."""

_NEVER = float("-inf")


def sample(logits_RV: torch.Tensor, sequences: Sequence[SequenceSampling], positions: Sequence[int]) -> torch.Tensor:
    """Choose a token for each row: int64 [R]. Rows never influence each other. May change ``logits_RV``.

    Args:
        logits_RV: float32.
        sequences: of each row.
        positions: index that each row's new token will have in its sequence.
    """
    adjust(logits_RV, sequences, positions)
    chosen_R = logits_RV.argmax(-1)
    random = [row for row, sequence in enumerate(sequences) if not sequence.is_greedy]
    if random:
        rows = torch.tensor(random, device=logits_RV.device)
        chosen_R[rows] = _sample_random(
            logits_RV[rows], [sequences[row] for row in random], [positions[row] for row in random]
        )
    return chosen_R


def adjust(logits_RV: torch.Tensor, sequences: Sequence[SequenceSampling], positions: Sequence[int]) -> None:
    """Steps 1 to 4, in place; touches only the rows that ask for them."""
    penalised = [row for row, sequence in enumerate(sequences) if sequence.has_penalties]
    if penalised:
        _penalise(logits_RV, penalised, sequences)
    for row, sequence in enumerate(sequences):
        if not sequence.has_adjustments:
            continue
        if sequence.bias is not None:
            tokens, bias = sequence.bias
            logits_RV[row, tokens] += bias
        if sequence.silenced is not None and positions[row] < sequence.min_position:
            logits_RV[row, sequence.silenced] = _NEVER


def _penalise(logits_RV: torch.Tensor, penalised: list[int], sequences: Sequence[SequenceSampling]) -> None:
    device = logits_RV.device
    rows = torch.tensor(penalised, device=device)
    which = [sequences[row] for row in penalised]
    counts_RV = torch.stack([s.output_counts_V for s in which if s.output_counts_V is not None])
    is_in_prompt_RV = torch.stack([s.is_in_prompt_V for s in which if s.is_in_prompt_V is not None])
    repetition_R1 = _column([s.params.repetition_penalty for s in which], device)
    values_RV = logits_RV[rows]
    is_seen_RV = is_in_prompt_RV | (counts_RV > 0)
    repeated_RV = torch.where(values_RV > 0, values_RV / repetition_R1, values_RV * repetition_R1)
    values_RV = torch.where(is_seen_RV, repeated_RV, values_RV)
    values_RV -= counts_RV * _column([s.params.frequency_penalty for s in which], device)
    values_RV -= (counts_RV > 0) * _column([s.params.presence_penalty for s in which], device)
    logits_RV[rows] = values_RV


def _sample_random(logits_RV: torch.Tensor, sequences: list[SequenceSampling], positions: list[int]) -> torch.Tensor:
    device = logits_RV.device
    # The largest becomes 0, so that no temperature, however small, makes it overflow.
    logits_RV -= logits_RV.amax(-1, keepdim=True)
    logits_RV /= _column([s.params.temperature for s in sequences], device)
    restrict(
        logits_RV,
        min_p=[s.params.min_p for s in sequences],
        top_k=[s.params.top_k for s in sequences],
        top_p=[s.params.top_p for s in sequences],
    )
    keys_R = noise.stream_keys(
        torch.tensor([s.seed for s in sequences], dtype=torch.int64, device=device),
        torch.tensor([s.choice for s in sequences], dtype=torch.int64, device=device),
        torch.tensor(positions, dtype=torch.int64, device=device),
    )
    return draw(logits_RV, keys_R)


def restrict(logits_RV: torch.Tensor, min_p: list[float], top_k: list[int], top_p: list[float]) -> None:
    """Steps 6 to 8, in place; the largest logit of each row must be 0."""
    device, vocab = logits_RV.device, logits_RV.shape[1]
    if any(min_p):
        floor_R1 = torch.log(_column(min_p, device))
        logits_RV.masked_fill_(logits_RV < floor_R1, _NEVER)
    limited = [row for row, k in enumerate(top_k) if 0 < k < vocab]
    if limited:
        rows = torch.tensor(limited, device=device)
        ranks_R1 = torch.tensor([[top_k[row] - 1] for row in limited], device=device)
        values_RV = logits_RV[rows]
        largest = values_RV.topk(max(top_k[row] for row in limited), dim=-1).values
        logits_RV[rows] = values_RV.masked_fill_(values_RV < largest.gather(-1, ranks_R1), _NEVER)
    nucleus = [row for row, p in enumerate(top_p) if p < 1.0]
    if nucleus:
        rows = torch.tensor(nucleus, device=device)
        values_RV = logits_RV[rows]
        floor_R1 = _nucleus_floor(values_RV, _column([top_p[row] for row in nucleus], device).double())
        logits_RV[rows] = values_RV.masked_fill_(values_RV < floor_R1, _NEVER)


def _nucleus_floor(logits_RV: torch.Tensor, top_p_R1: torch.Tensor) -> torch.Tensor:
    """Smallest logit of each row's nucleus: [R, 1]."""
    total_R1 = logits_RV.logsumexp(-1, keepdim=True).double()
    count = min(NUCLEUS_TRY, logits_RV.shape[1])
    largest = logits_RV.topk(count, dim=-1).values
    floor_R1, is_whole_R = _floor_of_sorted(largest, total_R1, top_p_R1)
    beyond = torch.nonzero(~is_whole_R).squeeze(-1)
    if beyond.numel() and count < logits_RV.shape[1]:
        everything = logits_RV[beyond].sort(-1, descending=True).values
        floor_R1[beyond] = _floor_of_sorted(everything, total_R1[beyond], top_p_R1[beyond])[0]
    return floor_R1


def _floor_of_sorted(
    sorted_RK: torch.Tensor, total_R1: torch.Tensor, top_p_R1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The value with which the cumulated probability reaches top_p, and whether it does within these values."""
    reached_RK = torch.exp(sorted_RK.double() - total_R1).cumsum(-1)
    needed_R1 = (reached_RK < top_p_R1).sum(-1, keepdim=True)
    last = sorted_RK.shape[1] - 1
    return sorted_RK.gather(-1, needed_R1.clamp(max=last)), needed_R1.squeeze(-1) <= last


def draw(logits_RV: torch.Tensor, keys_R: torch.Tensor) -> torch.Tensor:
    """Draw from each row's softmax by Gumbel-max, int64 [R], with noise that depends on its key alone.

    In two steps, so that noise is needed for some hundreds of indices and not for the whole vocabulary: first a group
    of :data:`GROUP` consecutive token ids by its total weight, then a token within it. Group g takes number −1 − g of
    the row's stream, token t takes number t. A small change of logits changes the choice only where it changes the
    order of two perturbed scores.
    """
    num_rows, vocab = logits_RV.shape
    num_groups = -(-vocab // GROUP)
    padded_RV = torch.nn.functional.pad(logits_RV, (0, num_groups * GROUP - vocab), value=_NEVER)
    groups_RGE = padded_RV.view(num_rows, num_groups, GROUP)
    group_ids_G = torch.arange(num_groups, device=logits_RV.device)
    weights_RG = groups_RGE.logsumexp(-1).double()
    group_R = (weights_RG + noise.gumbel(keys_R, -1 - group_ids_G)).argmax(-1)
    members_RE = groups_RGE[torch.arange(num_rows, device=logits_RV.device), group_R].double()
    token_ids_RE = group_R.unsqueeze(-1) * GROUP + torch.arange(GROUP, device=logits_RV.device)
    best_R = (members_RE + noise.gumbel(keys_R, token_ids_RE)).argmax(-1)
    return group_R * GROUP + best_R


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(-1)
