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

Dimensions: R rows, V vocabulary, K largest logits, G groups of tokens, M members of a group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stageline_engine.stage import noise
from stageline_engine.stage.sequence_sampling import SequenceSampling

GROUP = 256
"""Tokens of a group in :func:`draw`; part of what a seed means, so never to be changed."""
NUCLEUS_TRIES = (256, 4096)
"""How many of the largest logits top_p looks at before it sorts a whole row, which costs many times as much."""

_NEVER = float("-inf")


def sample(logits_RV: torch.Tensor, sequences: Sequence[SequenceSampling], positions: Sequence[int]) -> torch.Tensor:
    """Choose a token for each row: int64 [R]. Rows never influence each other. May change ``logits_RV``.

    Args:
        logits_RV: float32.
        sequences: of each row.
        positions: index that each row's new token will have in its sequence.
    """
    adjust(logits_RV, sequences, positions)
    random = [row for row, sequence in enumerate(sequences) if not sequence.is_greedy]
    if len(random) == len(sequences):
        return _sample_random(logits_RV, sequences, positions)
    chosen_R = logits_RV.argmax(-1)
    if random:
        rows = torch.tensor(random, device=logits_RV.device)
        chosen_R[rows] = _sample_random(
            logits_RV[rows], [sequences[row] for row in random], [positions[row] for row in random]
        )
    return chosen_R


def adjust(logits_RV: torch.Tensor, sequences: Sequence[SequenceSampling], positions: Sequence[int]) -> None:
    """Steps 1 to 4, in place; touches only the rows and tokens that they change."""
    _penalise(logits_RV, sequences)
    for row, sequence in enumerate(sequences):
        if sequence.bias is not None:
            tokens, bias = sequence.bias
            logits_RV[row, tokens] += bias
        if sequence.silenced is not None and positions[row] < sequence.min_position:
            logits_RV[row, sequence.silenced] = _NEVER


def _penalise(logits_RV: torch.Tensor, sequences: Sequence[SequenceSampling]) -> None:
    """All tokens seen by all rows at once. E numbers the (row, seen token) pairs."""
    rows = [row for row, sequence in enumerate(sequences) if sequence.seen is not None]
    seen = [sequence.seen for sequence in sequences if sequence.seen is not None]
    if not rows:
        return
    device = logits_RV.device
    params = [sequences[row].params for row in rows]
    sizes_R = np.array([len(one) for one in seen])

    def spread(values: list[float] | list[int]) -> torch.Tensor:
        return torch.from_numpy(np.repeat(np.array(values), sizes_R)).to(device)

    at_E = spread(rows), torch.from_numpy(np.concatenate([one.tokens for one in seen])).to(device)
    counts_E = torch.from_numpy(np.concatenate([one.counts for one in seen])).to(device)
    logits_E = logits_RV[at_E]
    repetition_E = spread([one.repetition_penalty for one in params]).float()
    logits_E = torch.where(logits_E > 0, logits_E / repetition_E, logits_E * repetition_E)
    logits_E -= counts_E * spread([one.frequency_penalty for one in params]).float()
    logits_E -= (counts_E > 0) * spread([one.presence_penalty for one in params]).float()
    logits_RV[at_E] = logits_E


def _sample_random(
    logits_RV: torch.Tensor, sequences: Sequence[SequenceSampling], positions: Sequence[int]
) -> torch.Tensor:
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
    limited = [row for row, k in enumerate(top_k) if 0 < k < vocab]
    if limited or any(min_p):
        floor_R1 = torch.log(_column(min_p, device))
        if limited:
            rows = torch.tensor(limited, device=device)
            floor_R1[rows] = floor_R1[rows].maximum(_kth_largest(_some(logits_RV, rows), [top_k[r] for r in limited]))
        logits_RV.masked_fill_(logits_RV < floor_R1, _NEVER)
    nucleus = [row for row, p in enumerate(top_p) if p < 1.0]
    if nucleus:
        rows = torch.tensor(nucleus, device=device)
        floor_R1 = torch.full((len(top_p), 1), _NEVER, device=device)
        floor_R1[rows] = _nucleus_floor(_some(logits_RV, rows), _column([top_p[r] for r in nucleus], device).double())
        logits_RV.masked_fill_(logits_RV < floor_R1, _NEVER)


def _some(logits_RV: torch.Tensor, rows_R: torch.Tensor) -> torch.Tensor:
    """The rows, without a copy when they are all."""
    return logits_RV if len(rows_R) == len(logits_RV) else logits_RV[rows_R]


def _kth_largest(logits_RV: torch.Tensor, ranks: list[int]) -> torch.Tensor:
    """Of each row the logit of its own rank (1 is the largest): [R, 1]."""
    largest_RK = logits_RV.topk(max(ranks), dim=-1).values
    return largest_RK.gather(-1, torch.tensor(ranks, device=logits_RV.device).unsqueeze(-1) - 1)


def _nucleus_floor(logits_RV: torch.Tensor, top_p_R1: torch.Tensor) -> torch.Tensor:
    """Smallest logit of each row's nucleus: [R, 1]."""
    total_R1 = logits_RV.logsumexp(-1, keepdim=True).double()
    floor_R1 = torch.empty(len(logits_RV), 1, device=logits_RV.device)
    rows_R = torch.arange(len(logits_RV), device=logits_RV.device)
    vocab = logits_RV.shape[1]
    for count in (*(some for some in NUCLEUS_TRIES if some < vocab), vocab):
        largest_RK = _some(logits_RV, rows_R).topk(count, dim=-1).values
        reached_RK = torch.exp(largest_RK.double() - total_R1[rows_R]).cumsum(-1)
        needed_R1 = (reached_RK < top_p_R1[rows_R]).sum(-1, keepdim=True)
        # Rounding may leave the sum of the whole row below top_p.
        floor_R1[rows_R] = largest_RK.gather(-1, needed_R1.clamp(max=count - 1))
        rows_R = rows_R[needed_R1.squeeze(-1) == count]
        if not len(rows_R):
            break
    return floor_R1


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
    groups_RGM = padded_RV.view(num_rows, num_groups, GROUP)
    group_ids_G = torch.arange(num_groups, device=logits_RV.device)
    weights_RG = groups_RGM.logsumexp(-1).double()
    group_R = (weights_RG + noise.gumbel(keys_R, -1 - group_ids_G)).argmax(-1)
    members_RM = groups_RGM[torch.arange(num_rows, device=logits_RV.device), group_R].double()
    token_ids_RM = group_R.unsqueeze(-1) * GROUP + torch.arange(GROUP, device=logits_RV.device)
    best_R = (members_RM + noise.gumbel(keys_R, token_ids_RM)).argmax(-1)
    return group_R * GROUP + best_R


def _column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(-1)
