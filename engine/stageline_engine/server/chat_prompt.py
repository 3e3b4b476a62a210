"""Messages to a prompt's token ids, for /v1/chat/completions and /tokenize."""

from __future__ import annotations

from stageline_engine.server.chat_request import TemplateFields
from stageline_engine.server.context import ServerContext
from stageline_engine.server.errors import ApiError


async def chat_prompt(context: ServerContext, wanted: TemplateFields) -> list[int]:
    """Token ids of the rendered template.

    Raises:
        ApiError: 400, the model has no template, or the prompt does not fit.
        InvalidRequestError: the template refuses the messages.
    """
    template = context.tokenizer.chat_template
    if template is None:
        raise ApiError(
            400,
            "messages: this model has no chat template; use /v1/completions",
            param="messages",
            code="no_chat_template",
        )
    messages = [message.for_template() for message in wanted.messages]
    text = await context.offload(
        sum(len(message.content) for message in wanted.messages),
        lambda: template.render(
            messages,
            add_generation_prompt=wanted.add_generation_prompt is not False,
            continue_final_message=bool(wanted.continue_final_message),
            variables=wanted.chat_template_kwargs,
        ),
    )
    # Templates write the special tokens themselves.
    return await context.encode(text, "messages", add_special_tokens=bool(wanted.add_special_tokens))
