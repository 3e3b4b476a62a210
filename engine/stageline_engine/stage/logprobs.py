"""Log probabilities that requests ask for: of a token and of the most likely ones, from raw logits.

Dimensions: R rows, V vocabulary, K most likely tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stageline_engine.core.messages import TokenLogprobs


def token_logprobs(logits_RV: torch.Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    """Log softmax at each row's token, its rank, and the row's ``num_top`` most likely tokens.

    ``logits_RV`` are the model's own, float32, before temperature, penalties and bias.
    """
    total_R1 = logits_RV.logsumexp(-1, keepdim=True)
    ids_R1 = torch.tensor(token_ids, dtype=torch.int64, device=logits_RV.device).unsqueeze(-1)
    chosen_R1 = logits_RV.gather(-1, ids_R1)
    ranks = ((logits_RV > chosen_R1).sum(-1) + 1).tolist()
    logprobs = (chosen_R1 - total_R1).squeeze(-1).tolist()
    top = logits_RV.topk(min(max(num_top), logits_RV.shape[1]), dim=-1)
    top_logprobs, top_ids = (top.values - total_R1).tolist(), top.indices.tolist()
    return [
        TokenLogprobs(logprobs[row], ranks[row], top_ids[row][:count], top_logprobs[row][:count])
        for row, count in enumerate(num_top)
    ]
