"""OpenTelemetry tracing: a span for each request, with child spans for its time in the queue and its batch's compute.

A caller's ``traceparent`` (W3C) makes the request part of the caller's trace. The SDK's environment variables apply,
such as ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS``. Importing this needs the extra
``otel``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final

import grpc

from torso.errors import MissingExtraError, ServerError

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as error:
    raise MissingExtraError("tracing (otlp_endpoint)", "otel") from error

PATH: Final = "/v1/traces"
SHUTDOWN_S: Final = 2.0  # timeout of the last export at shutdown
TRACE_HEADERS: Final = ("traceparent", "tracestate")
# The statuses that are a server's failure, by OpenTelemetry's conventions for gRPC; the others are the caller's.
SERVER_FAULTS: Final = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")

_propagator = TraceContextTextMapPropagator()
_current: ContextVar[RequestSpan | None] = ContextVar("current_span", default=None)


class RequestSpan:
    """Span of a request, or of a stream. Times are on the event loop's clock, which is monotonic."""

    __slots__ = ("_span", "_started", "_started_ns", "_tracer")

    def __init__(self, tracer: Tracer, span: Span, started: float, started_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._started = started
        self._started_ns = started_ns

    @property
    def context(self) -> Context:
        """The parent context for child spans."""
        return set_span_in_context(self._span)

    def add_child(self, name: str, begin: float, end: float, rows: int | None = None) -> None:
        """Record a finished child span, from ``begin`` to ``end``."""
        if self._span.is_recording():
            child = self._tracer.start_span(name, self.context, start_time=self.moment_ns(begin))
            if rows is not None:
                child.set_attribute("torso.batch_rows", rows)
            child.end(self.moment_ns(end))

    def end(self, seconds: float, status: str, problem: str, request_id: str, model: str, version: str) -> None:
        """End the span. ``status`` is the gRPC status' name, ``problem`` the error message that the caller got."""
        if self._span.is_recording():
            self._span.set_attribute("rpc.grpc.status_code", grpc.StatusCode[status].value[0])
            self._span.set_attribute("torso.request_id", request_id)
            if model:
                self._span.set_attributes({"torso.model": model, "torso.version": version})
            if status in SERVER_FAULTS:
                self._span.set_status(Status(StatusCode.ERROR, problem or status))
        self._span.end(self.moment_ns(self._started + seconds))

    def moment_ns(self, moment: float) -> int:
        """Convert a time on the event loop's clock to nanoseconds since 1970."""
        return self._started_ns + round((moment - self._started) * 1e9)


class Tracing:
    """Tracer of a process: creates its spans and exports them through ``processor``."""

    def __init__(self, processor: SpanProcessor) -> None:
        # The service's name is the environment's, where it gives one.
        resource = Resource.create({"service.name": "torso"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("torso.serve")

    @classmethod
    def to(cls, endpoint: str) -> Tracing:
        """Send spans to an OTLP/HTTP endpoint, from a thread; what it does not accept in time is dropped and logged.

        Raises ServerError where the endpoint is no URL.
        """
        if not endpoint.startswith(("http://", "https://")):
            raise ServerError(f"otlp_endpoint must be a URL such as http://localhost:4318, got {endpoint!r}")
        base = endpoint.rstrip("/")
        return cls(BatchSpanProcessor(OTLPSpanExporter(base if base.endswith(PATH) else base + PATH)))

    def begin(self, method: str, metadata: Iterable[tuple[str, str | bytes]] | None, started: float) -> RequestSpan:
        """Start a request's span, the current one of this context. ``started``: now, on the event loop's clock."""
        carrier = {key: value for key, value in metadata or () if key in TRACE_HEADERS and isinstance(value, str)}
        return self._begin(method, _propagator.extract(carrier), SpanKind.SERVER, started, time.time_ns())

    def begin_message(self, stream: RequestSpan, method: str, started: float) -> RequestSpan:
        """Start the span of one request of a stream, a child of the stream's and the current one of this context.

        Its times count from the stream's begin, so that they lie within the stream's whatever the wall clock does.
        """
        return self._begin(method, stream.context, SpanKind.INTERNAL, started, stream.moment_ns(started))

    def _begin(self, method: str, parent: Context, kind: SpanKind, started: float, now_ns: int) -> RequestSpan:
        attributes = {"rpc.system": "grpc", "rpc.method": method}
        span = self._tracer.start_span(method, parent, kind, attributes, start_time=now_ns)
        request = RequestSpan(self._tracer, span, started, now_ns)
        _current.set(request)
        return request

    def computed(self, queued: float, taken: float, done: float, rows: int) -> None:
        """Record child spans of the current request: its time in the queue, its batch's compute, of ``rows`` rows."""
        request = _current.get()
        if request is not None:
            request.add_child("queue", queued, taken)
            request.add_child("compute", taken, done, rows)

    def end(self) -> None:
        """Flush the last spans, for `SHUTDOWN_S` seconds at the most, and shut down. This blocks."""
        ending = threading.Thread(target=self._provider.shutdown, name="end-of-traces", daemon=True)
        ending.start()
        ending.join(SHUTDOWN_S)  # the SDK would wait half a minute for an endpoint that does not answer
