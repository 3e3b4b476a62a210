"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from fastapi import Request, Response

from stageline_engine.server import replies
from stageline_engine.server.body import read_request
from stageline_engine.server.chat_prompt import chat_prompt
from stageline_engine.server.context import ServerContext
from stageline_engine.server.errors import ApiError
from stageline_engine.server.fields import decode, parse, validate
from stageline_engine.server.tokenize_request import DetokenizeRequest, TokenizeChat, TokenizeText


async def tokenize(context: ServerContext, request: Request) -> Response:
    """Token ids of a text or of messages."""
    wanted = await read_request(context, request, _text_or_chat)
    context.check_model(wanted.model)
    if isinstance(wanted, TokenizeChat):
        wanted.check_template()
        token_ids = await chat_prompt(context, wanted)
    else:
        text, add = wanted.prompt, wanted.add_special_tokens is not False
        context.check_length(text, "prompt")
        token_ids = await context.offload(len(text), lambda: context.tokenizer.encode(text, add_special_tokens=add))
    reply = replies.Tokenized(count=len(token_ids), max_model_len=context.max_model_len, tokens=token_ids)
    if wanted.return_token_strs:
        reply.token_strs = [context.tokenizer.token_piece(token_id) for token_id in token_ids]
    return Response(replies.encode(reply), media_type="application/json")


async def detokenize(context: ServerContext, request: Request) -> Response:
    """Text of token ids."""
    wanted = await read_request(context, request, lambda body: parse(DetokenizeRequest, body))
    context.check_model(wanted.model)
    # What /tokenize gives can be given back, also where the model has no row for it.
    size = max(context.tokenizer.vocab_size, context.tokenizer.num_tokens)
    if (largest := max(wanted.tokens, default=0)) >= size:
        raise ApiError(
            400,
            f"tokens: token id {largest} is not in the vocabulary (0 to {size - 1})",
            param="tokens",
            code="invalid_value",
        )
    text = await context.offload(
        len(wanted.tokens), lambda: context.tokenizer.decode(wanted.tokens, skip_special_tokens=False)
    )
    return Response(replies.encode(replies.Detokenized(prompt=text)), media_type="application/json")


def _text_or_chat(body: bytes) -> TokenizeText | TokenizeChat:
    fields = decode(body)
    return validate(TokenizeChat, fields) if "messages" in fields else validate(TokenizeText, fields)
