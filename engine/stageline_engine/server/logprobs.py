"""Log probabilities in the shapes of the API."""

from __future__ import annotations

from collections.abc import Sequence

from stageline_engine.core.messages import TokenLogprobs
from stageline_engine.server import replies
from stageline_engine.text.output import ReportedToken
from stageline_engine.text.token_bytes import shown_text
from stageline_engine.text.tokenizer import Tokenizer

LEAST = -9999.0
"""Stands for minus infinity, which JSON has not; the same value as in the OpenAI API."""


def _finite(logprob: float) -> float:
    # Also true for a NaN, which is no number in JSON either.
    return logprob if logprob > LEAST else LEAST


def chat_logprobs(tokenizer: Tokenizer, tokens: Sequence[ReportedToken], num_top: int) -> replies.ChatLogprobs:
    """For /v1/chat/completions, with ``num_top`` alternatives each."""
    return replies.ChatLogprobs([_chat_token(tokenizer, token, num_top) for token in tokens])


def _chat_token(tokenizer: Tokenizer, token: ReportedToken, num_top: int) -> replies.ChatTokenLogprob:
    content = tokenizer.token_bytes(token.token_id)
    top = []
    for token_id, logprob in _top(token.logprobs, num_top):
        alternative = tokenizer.token_bytes(token_id)
        top.append(replies.TopLogprob(shown_text(alternative), _finite(logprob), list(alternative)))
    return replies.ChatTokenLogprob(shown_text(content), _finite(token.logprobs.logprob), list(content), top)


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[tuple[int, TokenLogprobs | None, int]], num_top: int
) -> replies.CompletionLogprobs:
    """For /v1/completions.

    Args:
        tokenizer: for the tokens' texts.
        tokens: (token id, its log probabilities or None for the first of a prompt, offset in the choice's text).
        num_top: alternatives for each; the token itself is added when it is not among them.
    """
    found = replies.CompletionLogprobs([], [], [], [])
    for token_id, logprobs, offset in tokens:
        text = tokenizer.token_text(token_id)
        found.tokens.append(text)
        found.text_offset.append(offset)
        found.token_logprobs.append(None if logprobs is None else _finite(logprobs.logprob))
        if logprobs is None:
            found.top_logprobs.append(None)
            continue
        top = {tokenizer.token_text(other): _finite(logprob) for other, logprob in _top(logprobs, num_top)}
        top.setdefault(text, _finite(logprobs.logprob))
        found.top_logprobs.append(top)
    return found


def prompt_logprobs(
    tokenizer: Tokenizer, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], num_top: int
) -> replies.PromptLogprobsReply:
    """vLLM's ``prompt_logprobs``: for each prompt token but the first, itself and the alternatives by token id."""
    reply: replies.PromptLogprobsReply = []
    for token_id, at_position in zip(token_ids, logprobs, strict=True):
        if at_position is None:
            reply.append(None)
            continue
        own = replies.PromptLogprob(_finite(at_position.logprob), at_position.rank, tokenizer.token_text(token_id))
        entry = {str(token_id): own}
        for rank, (other, logprob) in enumerate(_top(at_position, num_top), start=1):
            entry.setdefault(str(other), replies.PromptLogprob(_finite(logprob), rank, tokenizer.token_text(other)))
        reply.append(entry)
    return reply


def _top(logprobs: TokenLogprobs, num_top: int) -> list[tuple[int, float]]:
    return list(zip(logprobs.top_ids, logprobs.top_logprobs, strict=True))[:num_top]
