"""Tracing: attributes and parents of spans, and their export to an OTLP endpoint."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from torso.errors import InputError, ServerError
from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve.observability.metrics import Metrics
from torso.serve.observability.tracing import Tracing
from torso.serve.services.request_handler import Call, RequestHandler
from torso.serve.wire.status import WireStatus

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Recorded:
    """Tracing that keeps its spans."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracing = Tracing(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        """The ended spans, in that order."""
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


async def ask(channel: grpc.aio.Channel, name: str, **metadata: str) -> grpc.StatusCode:
    call = channel.unary_unary("/test.Door/answer")(
        pb.GetModelRequest(model=name).SerializeToString(),
        metadata=[(key.replace("_", "-"), value) for key, value in metadata.items()],
    )
    return await call.code()


def within(inner: ReadableSpan, outer: ReadableSpan) -> bool:
    assert inner.start_time is not None
    assert outer.start_time is not None
    assert inner.end_time is not None
    assert outer.end_time is not None
    return outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time


def answering(metrics: Metrics) -> Callable[..., Any]:
    """A method that records a computation as a batcher does, and fails as requested."""

    async def answer(asked: pb.GetModelRequest, call: Call) -> pb.GetModelResponse:
        model = call.metrics = metrics.model("digits", "3")
        queued = monotonic()
        await asyncio.sleep(0)
        if asked.model == "mistake":
            raise InputError("model", expected="another", got="this")
        if asked.model == "bug":
            raise KeyError("secret")
        assert model.trace is not None
        model.trace(queued, monotonic(), monotonic(), 8)
        return pb.GetModelResponse(name=asked.model)

    return answer


def test_a_request_its_queueing_and_its_compute_are_spans(behind: Callable[..., Any], recorded: Recorded) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with behind(RequestHandler(metrics, tracing=recorded.tracing), answering(metrics)) as channel:
            assert await ask(channel, "a", x_request_id="7") is grpc.StatusCode.OK

    asyncio.run(scenario())
    queue, compute, request = recorded.spans
    assert (queue.name, compute.name, request.name) == ("queue", "compute", "answer")
    assert request.parent is None
    assert request.kind is SpanKind.SERVER
    for part in (queue, compute):
        assert part.parent == request.context
        assert within(part, request)
    assert queue.end_time == compute.start_time
    assert compute.attributes == {"torso.batch_rows": 8}
    assert request.attributes == {
        "rpc.system": "grpc",
        "rpc.method": "answer",
        "rpc.grpc.status_code": 0,
        "torso.request_id": "7",
        "torso.model": "digits",
        "torso.version": "3",
    }
    assert request.status.status_code is StatusCode.UNSET
    assert request.resource.attributes["service.name"] == "torso"


def test_a_callers_trace_is_joined(behind: Callable[..., Any], recorded: Recorded) -> None:
    metrics = Metrics()

    async def scenario() -> None:
        async with behind(RequestHandler(metrics, tracing=recorded.tracing), answering(metrics)) as channel:
            await ask(channel, "a", traceparent=TRACEPARENT, tracestate="vendor=1")
            await ask(channel, "b", traceparent=TRACEPARENT.removesuffix("1") + "0")  # not to be recorded
            await ask(channel, "c", traceparent="00-nonsense-01")

    asyncio.run(scenario())
    joined, alone = (span for span in recorded.spans if span.name == "answer")
    assert joined.parent is not None
    assert f"{joined.parent.trace_id:032x}" == TRACE
    assert f"{joined.parent.span_id:016x}" == PARENT
    assert joined.parent.is_remote
    assert joined.context.trace_state == {"vendor": "1"}
    assert all(f"{span.context.trace_id:032x}" == TRACE for span in recorded.spans[:3])
    assert alone.parent is None
    assert f"{alone.context.trace_id:032x}" != TRACE


@given(
    traceparent=st.text() | st.binary() | st.from_regex("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-.."),
    tracestate=st.text(max_size=100) | st.binary(max_size=60),
)
def test_no_header_breaks_a_request(traceparent: str | bytes, tracestate: str | bytes) -> None:
    tracing = Recorded().tracing
    metadata = [("traceparent", traceparent), ("tracestate", tracestate), ("other", b"\xff")]
    tracing.begin("answer", metadata, monotonic()).end(0.1, "OK", "", "7", "", "")


def test_failures_are_the_servers_or_the_callers(behind: Callable[..., Any], recorded: Recorded) -> None:
    metrics = Metrics()
    handler = RequestHandler(metrics, tracing=recorded.tracing)

    async def scenario() -> None:
        async with behind(handler, answering(metrics)) as channel:
            await ask(channel, "mistake")
            await ask(channel, "bug")
            handler.closed = True
            await ask(channel, "late")

    asyncio.run(scenario())
    mistake, bug, late = recorded.spans
    codes = [span.attributes["rpc.grpc.status_code"] for span in (mistake, bug, late) if span.attributes]
    assert codes == [3, 13, 14]
    assert mistake.status.status_code is StatusCode.UNSET
    assert bug.status.status_code is late.status.status_code is StatusCode.ERROR
    assert bug.status.description is not None
    assert "secret" not in bug.to_json()
    assert not bug.events, "tracebacks are the log's"


def test_a_streams_requests_are_spans_within_its_own(
    behind: Callable[..., Any], recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = itertools.count(time.time_ns(), 10**9)  # a clock that is set forward, again and again
    monkeypatch.setattr("torso.serve.observability.tracing.time", SimpleNamespace(time_ns=lambda: next(wall)))
    metrics = Metrics()
    handler = RequestHandler(metrics, tracing=recorded.tracing)
    answer = answering(metrics)

    async def chat(requests: AsyncIterator[bytes], stream: Call) -> AsyncIterator[pb.GetModelResponse]:
        outcomes = [
            asyncio.create_task(
                handler.message(
                    stream, lambda call, data=data: answer(pb.GetModelRequest.FromString(data), call), len(data)
                )
            )
            async for data in requests
        ]
        for outcome in outcomes:
            answered = await outcome
            yield pb.GetModelResponse() if isinstance(answered, WireStatus) else answered

    async def scenario() -> None:
        async with behind(handler, chat) as channel:
            stream = channel.stream_stream("/test.Door/chat")(metadata=(("traceparent", TRACEPARENT),))
            for name in ("a", "mistake", "b"):
                await stream.write(pb.GetModelRequest(model=name).SerializeToString())
            await stream.done_writing()
            assert len([response async for response in stream]) == 3

    asyncio.run(scenario())
    *parts, stream = recorded.spans
    assert stream.kind is SpanKind.SERVER
    assert stream.parent is not None
    assert f"{stream.parent.span_id:016x}" == PARENT
    messages = [span for span in parts if span.name == "chat"]
    assert len(messages) == 3
    assert all(span.parent == stream.context and within(span, stream) for span in messages)
    assert len({span.attributes["torso.request_id"] for span in (stream, *messages) if span.attributes}) == 1
    computed = [span for span in parts if span.name == "compute"]
    assert {span.parent.span_id for span in computed if span.parent} == {
        span.context.span_id for span in messages if span.attributes and span.attributes["rpc.grpc.status_code"] == 0
    }
    assert len(computed) == 2


# -- the endpoint -----------------------------------------------------------------------------------------------------


class Collector:
    """An OTLP/HTTP endpoint. Unless ``answers`` is set it does not answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, ExportTraceServiceRequest]] = []
        self.got = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self.url = ""

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for _, _, request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest.FromString(body)
            path = self.requestline.split()[1]  # `path` has lost a second slash
            collector.requests.append((path, self.headers["content-type"], request))
            collector.got.set()
            assert collector.answers.wait(60)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.answers.set()
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("ending", ["", "/", "/v1/traces"])
def test_spans_reach_an_otlp_endpoint(behind: Callable[..., Any], ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pong-server")

    async def scenario(tracing: Tracing) -> None:
        metrics = Metrics()
        async with behind(RequestHandler(metrics, tracing=tracing), answering(metrics)) as channel:
            await ask(channel, "a", traceparent=TRACEPARENT)

    with collecting() as collector:
        tracing = Tracing.to(collector.url + ending)
        asyncio.run(scenario(tracing))
        tracing.end()
    assert {(path, kind) for path, kind, _ in collector.requests} == {("/v1/traces", "application/x-protobuf")}
    assert collector.services == {"pong-server"}
    spans = {span.name: span for span in collector.spans}
    assert spans.keys() == {"queue", "compute", "answer"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["answer"].parent_span_id.hex() == PARENT
    assert spans["queue"].parent_span_id == spans["compute"].parent_span_id == spans["answer"].span_id


def test_an_endpoint_that_does_not_answer_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")
    with collecting() as collector:
        collector.answers.clear()
        tracing = Tracing.to(collector.url)
        tracing.begin("answer", None, monotonic()).end(0.1, "OK", "", "7", "", "")
        tracing.end()
        [still_ending] = [thread for thread in threading.enumerate() if thread.name == "end-of-traces"]
        assert collector.got.wait(60)
        collector.answers.set()
        still_ending.join()


def test_without_an_endpoint_requests_are_answered(behind: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        tracing = Tracing.to(f"http://127.0.0.1:{taken.getsockname()[1]}")

        async def scenario() -> grpc.StatusCode:
            metrics = Metrics()
            async with behind(RequestHandler(metrics, tracing=tracing), answering(metrics)) as channel:
                return await ask(channel, "a")

        assert asyncio.run(scenario()) is grpc.StatusCode.OK
        tracing.end()


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://localhost:4317", "collector"])
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    with pytest.raises(ServerError, match=r"otlp_endpoint must be a URL such as http://localhost:4318, got"):
        Tracing.to(endpoint)


def test_without_the_extra_its_name_is_said() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
import torso.serve.services.request_handler
from torso.errors import MissingExtraError
try:
    import torso.serve.observability.tracing
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "tracing (otlp_endpoint) needs the extra 'otel': pip install 'torso[otel]'\n", done.stderr


def test_a_server_without_an_endpoint_does_not_import_opentelemetry() -> None:
    code = "import sys, torso.serve.server.grpc_server; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


def test_a_server_sends_the_spans_of_its_requests(
    models: Any, config: Callable[..., Any], running: Callable[..., Any]
) -> None:
    data = np.zeros((2, 4), np.float32)
    request = pb.ActRequest(
        model="cartpole",
        observations=pb.Tensor(dtype="float32", shape=data.shape, data=data.tobytes()),
    )
    with collecting() as collector:
        serving = running(config(models.cartpole, otlp_endpoint=collector.url))
        with serving as server, grpc.insecure_channel(server.address) as channel:
            PredictionServiceStub(channel).Act(request, metadata=(("traceparent", TRACEPARENT),))
    spans = {span.name: span for span in collector.spans}
    assert spans.keys() == {"queue", "compute", "act"}, "the server's end sends what is left"
    assert spans["act"].parent_span_id.hex() == PARENT
    assert spans["queue"].parent_span_id == spans["compute"].parent_span_id == spans["act"].span_id
    rows = [attribute.value.int_value for attribute in spans["compute"].attributes]
    assert rows == [math.prod(data.shape) // 4]
