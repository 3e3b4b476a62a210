"""An OpenAI-compatible server as the thing that is measured: ours, vLLM, or another that takes token ids.

The only module of the benchmark that knows HTTP. Every request is a streamed `POST /v1/completions`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType

import httpx
import msgspec
from httpx_sse import EventSource, SSEError

from stageline_engine.bench.target import Arrival
from stageline_engine.bench.workloads import SyntheticRequest
from stageline_engine.core.errors import ConfigurationError, EngineFailedError

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 600.0
"""Longest time between two pieces of an answer; a long queue on a slow machine is no error."""
FLAG = "MODEL-OR-URL"


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _Usage(msgspec.Struct):
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    text: str


class _Error(msgspec.Struct):
    message: str


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None

    @property
    def num_texts(self) -> int:
        return sum(bool(choice.text) for choice in self.choices)


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_CHUNKS = msgspec.json.Decoder(_Chunk)


class HttpTarget:
    """A server; use as an async context manager.

    Args:
        url: ``http://host:port``, with or without ``/v1``.
        model: name to ask for; None: the first that the server lists.
        api_key: sent as a bearer token.
    """

    def __init__(self, url: str, model: str | None, api_key: str | None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model or ""
        self._client = httpx.AsyncClient(
            headers={} if api_key is None else {"Authorization": f"Bearer {api_key}"},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
            # A connection of its own for each request, so that none has an advantage over another.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def __aenter__(self) -> HttpTarget:
        """Find out the model's name.

        Raises:
            ConfigurationError: nothing answers at the URL.
            EngineFailedError: what answers is no OpenAI-compatible server, or refuses.
        """
        try:
            if not self.model:
                self.model = await self._first_model()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def generate(self, request: SyntheticRequest) -> AsyncGenerator[Arrival, None]:
        """See :class:`stageline_engine.bench.target.Target`.

        Servers that count in every chunk are believed; for others a text is one token, and the final usage says how
        many came without a text of their own.
        """
        body = {
            "model": self.model,
            "prompt": request.prompt_token_ids,
            "max_tokens": request.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        num_seen = 0
        try:
            async with self._client.stream("POST", f"{self.url}/v1/completions", json=body) as response:
                await self._refuse_errors(response)
                # Not by lines of httpx: those end at every separator of Unicode, which a text may have inside.
                async for event in EventSource(response).aiter_sse():
                    if event.data == "[DONE]":
                        return
                    chunk = self._chunk(event.data)
                    num_now = num_seen + chunk.num_texts if chunk.usage is None else chunk.usage.completion_tokens
                    yield Arrival(max(0, num_now - num_seen), _num_cached(chunk.usage))
                    num_seen = num_now
        except SSEError as error:
            raise self._foreign("/v1/completions") from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        raise EngineFailedError(f"{self.url}: a stream ended without [DONE]")

    async def _first_model(self) -> str:
        try:
            response = await self._client.get(f"{self.url}/v1/models")
            await self._refuse_errors(response)
            models = msgspec.json.decode(response.content, type=_Models)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ConfigurationError(FLAG, self.url, "write http://host:port") from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        except msgspec.DecodeError as error:
            raise self._foreign("/v1/models") from error
        if not models.data:
            raise EngineFailedError(f"{self.url} lists no model: name one with --served-model-name")
        return models.data[0].id

    def _chunk(self, data: str) -> _Chunk:
        try:
            chunk = _CHUNKS.decode(data)
        except msgspec.DecodeError as error:
            raise self._foreign("/v1/completions") from error
        if chunk.error is not None:
            raise EngineFailedError(f"{self.url} ended a stream with an error: {chunk.error.message}")
        return chunk

    async def _refuse_errors(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        content = await response.aread()
        try:
            message = msgspec.json.decode(content, type=_Chunk).error
        except msgspec.DecodeError:
            message = None
        shown = content.decode(errors="replace")[:200] if message is None else message.message
        raise EngineFailedError(f"{response.request.url} answered HTTP {response.status_code}: {shown}")

    def _broken(self, error: httpx.HTTPError) -> ConfigurationError | EngineFailedError:
        reason = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ConfigurationError(FLAG, self.url, f"nothing answers there ({reason}): start the server first")
        return EngineFailedError(f"{self.url}: the connection broke: {reason}")

    def _foreign(self, path: str) -> EngineFailedError:
        return EngineFailedError(f"{self.url}{path} does not answer as an OpenAI-compatible server does")


def _num_cached(usage: _Usage | None) -> int:
    if usage is None or usage.prompt_tokens_details is None:
        return 0
    return usage.prompt_tokens_details.cached_tokens or 0
