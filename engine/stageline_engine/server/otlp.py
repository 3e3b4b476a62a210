"""Spans to a collector by OTLP over HTTP. The only module that knows OpenTelemetry's SDK, which is optional.

OTEL_… variables are obeyed, as OpenTelemetry's own programs do: the sampler, headers, the service's name.
"""

from __future__ import annotations

import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

from stageline_engine.server.tracing import SpanPart, Value

EXPORT_SECONDS = 5.0
"""A collector that does not take a batch in so long loses it."""
QUEUE_SPANS = 8192
"""Spans that wait for a collector; more are dropped."""
BATCH_MILLISECONDS = 1000.0
CLOSE_SECONDS = 1.0
_UNNAMED = "unknown_service"
"""So begins the name that OpenTelemetry gives to a service without one."""


class OtlpTracer:
    """See :class:`stageline_engine.server.tracing.Tracer`."""

    def __init__(self, endpoint: str) -> None:
        # Not at the end of the process, which a collector that hangs would hold up.
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint, timeout=EXPORT_SECONDS),
                max_queue_size=QUEUE_SPANS,
                schedule_delay_millis=BATCH_MILLISECONDS,
            )
        )
        self._tracer = self._provider.get_tracer("stageline")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, headers: Headers, began: float) -> OtlpSpan:
        """See the protocol."""
        parent = self._propagator.extract(dict(headers.items()))
        span = self._tracer.start_span(name, parent, kind=SpanKind.SERVER, start_time=_wall(began))
        return OtlpSpan(self._tracer, span)

    def close(self) -> None:
        """See the protocol."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class OtlpSpan:
    """See :class:`stageline_engine.server.tracing.OpenSpan`."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def is_recorded(self) -> bool:
        """See the protocol."""
        return self._span.is_recording()

    def end(self, ended: float, status: int, attributes: dict[str, Value], parts: list[SpanPart]) -> None:
        """See the protocol."""
        within = set_span_in_context(self._span)
        for part in parts:
            child = self._tracer.start_span(part.name, within, attributes=part.attributes, start_time=_wall(part.began))
            child.end(_wall(part.ended))
        self._span.set_attributes({**attributes, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end(_wall(ended))


def _resource() -> Resource:
    """What the environment says of this service; its name is ours, if that says none."""
    found = Resource.create()
    is_named = not str(found.attributes[SERVICE_NAME]).startswith(_UNNAMED)
    return found if is_named else found.merge(Resource({SERVICE_NAME: "stageline"}))


def _wall(reading: float) -> int:
    """Nanoseconds since 1970 of a reading of ``time.monotonic()``."""
    return time.time_ns() - int((time.monotonic() - reading) * 1e9)
