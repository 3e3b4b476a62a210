"""What the handlers of one API server share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from stageline_engine.client.base import EngineClient
from stageline_engine.server import limits
from stageline_engine.server.errors import ApiError
from stageline_engine.server.metrics import Metrics
from stageline_engine.server.settings import ServerSettings
from stageline_engine.server.tracing import open_tracer
from stageline_engine.text.tokenizer import Tokenizer

Value = TypeVar("Value")


class ServerContext:
    """Engine, tokenizer, settings and state of one API server."""

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, settings: ServerSettings) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.settings = settings
        self.metrics = Metrics(engine, settings.served_model_name, settings.metrics_compat)
        endpoint = settings.otlp_traces_endpoint
        self.tracer = None if endpoint is None else open_tracer(endpoint)
        """None: requests are not traced."""
        self.created = int(time.time())
        self.is_draining = False
        """New requests are refused; those that run go on."""
        self.num_open = 0
        """Requests to the engine's endpoints that are being answered; see :meth:`answering`."""
        self.idle = asyncio.Event()
        """Set while there are none."""
        self.idle.set()
        self._threads = ThreadPoolExecutor(limits.TEXT_THREADS, thread_name_prefix="text")

    @property
    def max_model_len(self) -> int:
        """Longest sequence in tokens."""
        return self.engine.ready.max_model_len

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count a request while it is answered."""
        self.num_open += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.num_open -= 1
            if not self.num_open:
                self.idle.set()

    def check_model(self, model: str | None) -> None:
        """Refuse a model that is not served here.

        Raises:
            ApiError: 404.
        """
        served = self.settings.served_model_name
        if model is not None and model != served:
            raise ApiError(
                404,
                f"model={model[:200]!r} is not served here: give {served!r}",
                kind="not_found_error",
                param="model",
                code="model_not_found",
            )

    def check_length(self, text: str, field: str) -> None:
        """Refuse a text that cannot fit, without tokenising it.

        Raises:
            ApiError: 400.
        """
        most = self.max_model_len * self.tokenizer.most_characters_per_token
        if len(text) > most:
            raise too_long(field, f"has {len(text)} characters, so more than", self.max_model_len)

    async def encode(self, text: str, field: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of ``text``, tokenised in a thread when it is long.

        Raises:
            ApiError: 400, it is too long for the model.
        """
        self.check_length(text, field)
        token_ids = await self.offload(
            len(text), lambda: self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        )
        self.check_tokens(token_ids, field)
        return token_ids

    def check_tokens(self, token_ids: list[int], field: str) -> None:
        """Refuse a prompt that leaves no room for an answer, is empty, or has ids that the model does not know.

        Raises:
            ApiError: 400.
        """
        if not token_ids:
            raise ApiError(400, f"{field}: the prompt has no tokens", param=field, code="invalid_value")
        if len(token_ids) > self.max_model_len:
            raise too_long(field, f"has {len(token_ids)} tokens, more than", self.max_model_len)
        for token_id in (min(token_ids), max(token_ids)):
            if not 0 <= token_id < self.tokenizer.vocab_size:
                raise ApiError(
                    400,
                    f"{field}: token id {token_id} is not in the vocabulary (0 to {self.tokenizer.vocab_size - 1})",
                    param=field,
                    code="invalid_value",
                )

    def check_room(self, token_ids: list[int], max_tokens: int | None, field: str) -> None:
        """Refuse a prompt that, with the tokens to generate, does not fit.

        Raises:
            ApiError: 400.
        """
        wanted = 1 if max_tokens is None else max_tokens
        if len(token_ids) + wanted > self.max_model_len:
            raise too_long(
                field,
                f"has {len(token_ids)} tokens, which with {wanted} tokens to generate are more than",
                self.max_model_len,
            )

    async def offload(self, size: int, work: Callable[[], Value], *, long: int = limits.LONG_TEXT) -> Value:
        """Run text work; in a thread when its size, in characters or bytes, is ``long`` or more."""
        if size < long:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def too_long(field: str, what: str, limit: int) -> ApiError:
    """400 for a prompt that does not fit."""
    return ApiError(
        400,
        f"{field}: the prompt {what} the {limit} that the model takes",
        param=field,
        code="context_length_exceeded",
    )
