"""One trace of each request that generates: when it waited, when its prompt ran, when it decoded, and on which stages.

    POST /v1/…  (continues the client's traceparent)
      ├─ queue     until a choice is admitted        one of each
      ├─ prefill   until its first token             for each choice
      └─ decode    until its last one

Nothing here waits for a collector: spans are made when the answer has gone out, and handed to a thread.
The package that knows OpenTelemetry is optional; :mod:`stageline_engine.server.otlp` is imported when it is asked for.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers

from stageline_engine.core.errors import ConfigurationError
from stageline_engine.core.messages import ChoiceTimes, PhaseTimes

FLAG = "--otlp-traces-endpoint"
LATE_SECONDS = 2.0
"""So long after the answer a span waits for what the stages tell of its last step."""
Value = str | int | float | bool | list[str] | list[float]


class SpanPart(msgspec.Struct, frozen=True):
    """A part of a request, to be a child of its span."""

    name: str
    began: float
    ended: float
    """Both as ``time.monotonic()`` reads."""
    attributes: dict[str, Value]


class OpenSpan(Protocol):
    """A request's span."""

    @property
    def is_recorded(self) -> bool:
        """Whether it will be exported at all: the client's own decision, or a sampler's."""

    def end(self, ended: float, status: int, attributes: dict[str, Value], parts: list[SpanPart]) -> None:
        """End it as of ``ended``, with all that is known; never waits."""


class Tracer(Protocol):
    """Makes spans and exports them in a thread."""

    def begin(self, name: str, headers: Headers, began: float) -> OpenSpan:
        """A request's span, a child of the client's, if there is one."""

    def close(self) -> None:
        """Send what is left, for at most a second."""


def open_tracer(endpoint: str) -> Tracer:
    """Export to ``endpoint``; nothing is sent yet.

    Raises:
        ConfigurationError: it is no URL, or the optional packages are missing.
    """
    address = urlsplit(endpoint)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigurationError(FLAG, endpoint, "give the URL of a collector, e.g. http://127.0.0.1:4318/v1/traces")
    try:
        otlp = importlib.import_module("stageline_engine.server.otlp")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            FLAG, endpoint, f"the package {error.name} is missing: pip install 'stageline[tracing]'"
        ) from error
    tracer: Tracer = otlp.OtlpTracer(endpoint)
    return tracer


class ChoiceTrace:
    """One choice, as the server sees it. Readings are of ``time.monotonic()``."""

    def __init__(self, prompt: int, choice: int) -> None:
        self._labels: dict[str, Value] = {"stageline.prompt": prompt, "stageline.choice": choice}
        self._sent = time.monotonic()
        self._queue_seconds: float | None = None
        self._prefill_seconds = 0.0
        self._last = 0.0
        self.num_tokens = 0
        self.finish_reason = ""
        self.times: ChoiceTimes | None = None

    def began(self, queue_seconds: float, prefill_seconds: float) -> None:
        """Its first output is here, and the core has measured how it came to that."""
        self._queue_seconds, self._prefill_seconds = queue_seconds, prefill_seconds

    def took(self, num_tokens: int, now: float, finish_reason: str | None) -> None:
        """So many tokens arrived."""
        self.num_tokens += num_tokens
        self._last = now
        self.finish_reason = finish_reason or self.finish_reason

    def parts(self) -> list[SpanPart]:
        """What is known of it."""
        if self._queue_seconds is None:
            return []
        admitted = self._sent + self._queue_seconds
        first = admitted + self._prefill_seconds
        prefill, decode = (None, None) if self.times is None else (self.times.prefill, self.times.decode)
        tokens: dict[str, Value] = {"gen_ai.usage.output_tokens": self.num_tokens}
        return [
            SpanPart("queue", self._sent, admitted, self._labels),
            SpanPart("prefill", admitted, first, {**self._labels, **_stages(prefill)}),
            SpanPart("decode", first, max(first, self._last), {**self._labels, **tokens, **_stages(decode)}),
        ]


def _stages(times: PhaseTimes | None) -> dict[str, Value]:
    if times is None:
        return {}
    return {"stageline.steps": times.steps, "stageline.stage.busy_seconds": list(times.busy)}


class RequestTrace:
    """One request's. Its span ends with the answer, and is exported when the stages have accounted for their part."""

    def __init__(self, span: OpenSpan) -> None:
        self._span = span
        self._choices: dict[tuple[int, int], ChoiceTrace] = {}
        self._attributes: dict[str, Value] = {}
        self._ended: tuple[float, int] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_recorded(self) -> bool:
        """Whether anybody will see it."""
        return self._span.is_recorded

    def describe(self, **attributes: Value) -> None:
        """Add attributes; ``__`` in a name stands for a dot."""
        self._attributes.update({name.replace("__", "."): value for name, value in attributes.items()})

    def choice(self, prompt: int, choice: int) -> ChoiceTrace:
        """A choice that begins."""
        made = self._choices[prompt, choice] = ChoiceTrace(prompt, choice)
        return made

    def told(self, prompt: int, times: ChoiceTimes) -> None:
        """The stages have accounted for a choice."""
        if (choice := self._choices.get((prompt, times.choice))) is not None:
            choice.times = times
        self._export_if_complete()

    def end(self, status: int) -> None:
        """The answer has gone out, or its client."""
        self._ended = (time.monotonic(), status)
        if not self._export_if_complete():
            self._timer = asyncio.get_running_loop().call_later(LATE_SECONDS, self._export)

    def _export_if_complete(self) -> bool:
        if self._ended is None or any(choice.times is None for choice in self._choices.values()):
            return False
        self._export()
        return True

    def _export(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ended is None:
            return
        (ended, status), self._ended = self._ended, None
        choices = self._choices.values()
        if choices:
            self.describe(
                gen_ai__usage__output_tokens=sum(choice.num_tokens for choice in choices),
                gen_ai__response__finish_reasons=[choice.finish_reason for choice in choices],
            )
        parts = [part for choice in choices for part in choice.parts()]
        self._span.end(ended, status, self._attributes, parts)
