"""Load generator: send times, counting, coordinated omission, against real servers; requests and plots."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from torso.errors import ConfigError, StorageError, UnavailableError, UnknownModelError
from torso.proto import oip_pb2 as oip
from torso.proto import prediction_pb2 as pb
from torso.serve import Client, ModelInfo, TensorSpec
from torso.serve.client.pool import Endpoint
from torso.serve.load_test import generator as load_generator
from torso.serve.load_test.echo import METHOD, bare_echo
from torso.serve.load_test.generator import Target, run_load
from torso.serve.load_test.loads import ClosedLoop, LoadResult, OpenLoop, Tally, Timing
from torso.serve.load_test.plot import plot_load
from torso.serve.load_test.requests import V2_METHOD, draw_inputs, method, serialised
from torso.serve.wire.datatypes import DATATYPES, DTYPES
from torso.serve.wire.tensors import tensor_to_array

BRIEF = Timing(duration_s=0.5, warmup_s=0.1, deadline_s=30.0)


# -- arrivals ----------------------------------------------------------------------------------------------------------


def test_constant_arrivals_are_even() -> None:
    assert OpenLoop(rate=4, arrivals="constant").times_s(1.1).tolist() == [0, 0.25, 0.5, 0.75, 1.0]


def test_poisson_arrivals_are_those_of_independent_users() -> None:
    times = OpenLoop(rate=100, seed=1).times_s(200.0)
    gaps = np.diff(times, prepend=0.0)
    assert (gaps > 0).all()
    assert times[-1] < 200.0
    # Exponential gaps: mean and deviation both 1/rate, and a share of exp(-1) longer than that; 20,000 of them.
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)
    assert (gaps > 0.01).mean() == pytest.approx(np.exp(-1), rel=0.05)
    assert np.array_equal(times, OpenLoop(rate=100, seed=1).times_s(200.0))
    assert not np.array_equal(times[:9], OpenLoop(rate=100, seed=2).times_s(200.0)[:9])
    assert OpenLoop(rate=1e-9).times_s(1.0).size == 0


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        (ClosedLoop, {"in_flight": 0}),
        (OpenLoop, {"rate": 0}),
        (OpenLoop, {"rate": float("nan")}),
        (OpenLoop, {"rate": 1, "arrivals": "bursts"}),
        (Timing, {"duration_s": 0}),
        (Timing, {"deadline_s": -1}),
        (Timing, {"warmup_s": -1}),
    ],
)
def test_loads_that_cannot_work_are_refused(made: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        made(**settings)


# -- counting ----------------------------------------------------------------------------------------------------------


def target(address: str = "127.0.0.1:1", path: str = METHOD, **settings: Any) -> Target:
    return Target(**{"endpoint": Endpoint(address), "method": path, "requests": [b"abc"], **settings})


def test_percentiles_are_values_that_were_seen() -> None:
    tally = Tally()
    for milliseconds in np.random.default_rng(0).permutation(np.arange(1, 1001)):
        tally.add("OK", milliseconds / 1000)
    found = tally.result(1, ClosedLoop(in_flight=1), BRIEF).latency_ms
    expected = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "mean": 500.5, "max": 1000}
    assert found == pytest.approx(expected)


def test_goodput_is_what_came_in_time_and_errors_are_no_answers() -> None:
    tally = Tally()
    for seconds in (0.1, 0.2, 0.3):
        tally.add("OK", seconds)
    for status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAVAILABLE"):
        tally.add(status, 0.001)
    timing = Timing(duration_s=2.0, deadline_s=0.2)
    found = tally.result(4, OpenLoop(rate=3), timing)
    assert (found.sent, found.answered, found.offered, found.in_flight) == (6, 3, 3.0, None)
    assert (found.throughput, found.goodput, found.rows_per_s) == (1.5, 1.0, 6.0)
    assert found.errors == {"UNAVAILABLE": 2, "RESOURCE_EXHAUSTED": 1}
    assert found.latency_ms["max"] == pytest.approx(300)
    assert found.refusal_ms["max"] == pytest.approx(1)
    assert Tally().result(1, ClosedLoop(in_flight=2), timing).latency_ms == {}


def test_a_stall_counts_for_every_request_that_it_delays() -> None:
    """One answer blocks the generator for 300 ms, in which thirty more requests were intended to be sent."""
    stalled: list[bytes] = []

    async def send(payload: bytes, _deadline_s: float) -> bytes:
        if not stalled:
            stalled.append(payload)
            time.sleep(0.3)
        return payload

    tally = Tally()
    load, timing = OpenLoop(rate=100, arrivals="constant"), Timing(duration_s=0.5, warmup_s=0.0)
    asyncio.run(load_generator._run_open_loop([send], [b""], load, timing, tally))
    assert len(tally.answers_s) == 50
    for index, (latency_s, late_s) in enumerate(zip(tally.answers_s[:30], tally.late_s, strict=False)):
        assert latency_s >= 0.3 - index * 0.01 - 1e-9
        assert late_s >= (0.3 - index * 0.01 if index else 0) - 1e-9


def test_a_deadline_counts_from_the_intended_moment_too() -> None:
    """The first answer blocks for longer than the deadline of the next ten requests: those are not even sent."""
    left_s: list[float] = []

    async def send(payload: bytes, deadline_s: float) -> bytes:
        if not left_s:
            time.sleep(0.3)
        left_s.append(deadline_s)
        return payload

    tally = Tally()
    load, timing = OpenLoop(rate=100, arrivals="constant"), Timing(duration_s=0.4, warmup_s=0.0, deadline_s=0.2)
    asyncio.run(load_generator._run_open_loop([send], [b""], load, timing, tally))
    assert len(tally.answers_s) + tally.errors["NOT_SENT"] == 40
    assert tally.errors["NOT_SENT"] >= 9
    assert len(left_s) == len(tally.answers_s)
    assert all(0 < each <= 0.2 for each in left_s)


# -- against real servers ----------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """Records of a server about its calls."""

    address: str = ""
    in_flight: int = 0
    most_in_flight: int = 0
    peers: set[str] = field(default_factory=set)
    payloads: list[bytes] = field(default_factory=list)
    metadata: set[Any] = field(default_factory=set)


@pytest.fixture
def seen() -> Iterator[Seen]:
    """A server that refuses every request whose payload begins with "no"."""
    seen = Seen()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.in_flight += 1
        seen.most_in_flight = max(seen.most_in_flight, seen.in_flight)
        seen.peers.add(context.peer())
        seen.payloads.append(request)
        seen.metadata.update(context.invocation_metadata())
        try:
            time.sleep(0.01)
            if request.startswith(b"no"):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
            return request
        finally:
            seen.in_flight -= 1

    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("torso.bare.Echo", handlers),))
    seen.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield seen
    server.stop(None).wait()


def test_a_closed_loop_keeps_so_many_in_flight(seen: Seen) -> None:
    asked = target(seen.address, requests=[b"a", b"b", b"c"], connections=3)
    found = run_load(asked, ClosedLoop(in_flight=5), BRIEF)
    assert seen.most_in_flight == 5
    assert len(seen.peers) == 3
    # Besides what is counted: one request to try each connection, the warm-up, and what was under way at the end.
    assert 0 < found.answered < len(seen.payloads) - 3
    assert found.throughput == pytest.approx(found.answered / 0.5)
    assert found.errors == {}
    assert found.latency_ms["p50"] >= 10
    counts = [seen.payloads[3:].count(payload) for payload in (b"a", b"b", b"c")]
    assert max(counts) - min(counts) <= 1


def test_an_open_loop_sends_at_its_rate_whatever_comes_back(seen: Seen) -> None:
    asked = target(seen.address, requests=[b"yes", b"no", b"no", b"yes"], connections=1)
    load = OpenLoop(rate=100, arrivals="constant")
    found = run_load(asked, load, Timing(duration_s=0.6, warmup_s=0.2, deadline_s=30))
    assert len(seen.payloads) == 1 + 80
    assert found.sent in (60, 61)  # which side of the warm-up's end a request falls on is for rounding to say
    assert found.offered == pytest.approx(100, rel=0.02)
    assert found.errors["RESOURCE_EXHAUSTED"] in (30, 31)
    assert found.answered in (30, 31)
    assert len(found.refusal_ms) == len(found.latency_ms) == 6
    assert found.late_ms["max"] >= 0
    nothing = run_load(asked, OpenLoop(rate=1e-6), BRIEF)
    assert (nothing.sent, nothing.latency_ms) == (0, {})


def test_a_token_is_shown(seen: Seen) -> None:
    run_load(target(endpoint=Endpoint(seen.address, "secret")), ClosedLoop(in_flight=1), BRIEF)
    assert ("authorization", "Bearer secret") in seen.metadata


def test_a_server_that_cannot_be_asked_is_a_typed_error(seen: Seen) -> None:
    with pytest.raises(UnavailableError, match=r"no answer from 127\.0\.0\.1:1"):
        run_load(target(), ClosedLoop(in_flight=1), BRIEF)
    with pytest.raises(ConfigError, match="must be at least 1 of each, got"):
        run_load(target(seen.address, requests=[]), ClosedLoop(in_flight=1), BRIEF)


def test_the_bare_echo_echoes_and_ends() -> None:
    with bare_echo() as address:
        with grpc.insecure_channel(address) as channel:
            assert channel.unary_unary(METHOD)(b"\x00abc", timeout=30) == b"\x00abc"
        found = run_load(target(address, requests=[bytes(3000)]), ClosedLoop(in_flight=4), BRIEF)
        assert found.answered > 0
        assert found.errors == {}
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(METHOD)(b"", timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# -- what is sent ------------------------------------------------------------------------------------------------------


def info(dtype: str, shape: tuple[int, ...], kind: str = "classifier") -> ModelInfo:
    name = "tensor" if kind == "classifier" else "observations"
    inputs = (TensorSpec(name=name, dtype=dtype, shape=shape),)
    return ModelInfo(
        name="m",
        version="1",
        kind=kind,
        inputs=inputs,
        outputs=(),
        labels=(),
        image=None,
        provenance={},
        backend="onnx",
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_protocols_carry_the_same_inputs(dtype: str) -> None:
    own = serialised(info(dtype, (2, 3)), "torso", rows=5, count=3)
    v2 = serialised(info(dtype, (2, 3)), "v2", rows=5, count=3)
    assert len(set(own)) == len(set(v2)) == 3
    for mine, theirs in zip(own, v2, strict=True):
        array = tensor_to_array(pb.ClassifyRequest.FromString(mine).tensor)
        assert (array.shape, array.dtype.name) == ((5, 2, 3), dtype)
        request = oip.ModelInferRequest.FromString(theirs)
        [its] = request.inputs
        assert (request.model_name, its.name, tuple(its.shape)) == ("m", "tensor", (5, 2, 3))
        assert its.datatype == DATATYPES[dtype]
        assert request.raw_input_contents[0] == array.astype(DTYPES[dtype]).tobytes()
    assert own == serialised(info(dtype, (2, 3)), "torso", rows=5, count=3)
    assert own != serialised(info(dtype, (2, 3)), "torso", rows=5, count=3, seed=1)


def test_bytes_are_drawn_from_all_there_are() -> None:
    drawn = draw_inputs(TensorSpec(name="x", dtype="uint8", shape=(100, 100)), 2, np.random.default_rng(0))
    assert set(np.unique(drawn)) == set(range(256))


def test_few_requests_are_kept_where_they_are_large() -> None:
    assert len(serialised(info("uint8", (1 << 20,)), "torso", rows=40)) == 2
    with pytest.raises(ConfigError, match="rows must be at least 1, got 0"):
        serialised(info("uint8", (1,)), "torso", rows=0)


def test_a_served_model_answers_what_is_made_up_for_it(served: Any) -> None:
    with Client(served.address) as client:
        described = [client.get_model(name) for name in ("digits", "cartpole", "frames")]
    for each in described:
        path = method(each, "torso")
        assert path.endswith("/Classify" if each.kind == "classifier" else "/Act")
        requests = serialised(each, "torso", rows=2)
        found = run_load(target(served.address, path, requests=requests, rows=2), ClosedLoop(in_flight=2), BRIEF)
        assert found.errors == {}
        assert found.rows_per_s == found.throughput * 2 > 0
    assert method(described[0], "v2") == V2_METHOD
    nobody = [pb.ClassifyRequest(model="nobody").SerializeToString()]
    with pytest.raises(UnknownModelError, match="nobody"):
        run_load(target(served.address, method(described[0], "torso"), requests=nobody), ClosedLoop(in_flight=1), BRIEF)


# -- the picture -------------------------------------------------------------------------------------------------------


def results() -> list[LoadResult]:
    found = []
    for number in (1, 4, 16):
        tally = Tally()
        for index in range(100 * number):
            tally.add("OK", 0.001 * number * (1 + index / 100))
        found.append(tally.result(1, ClosedLoop(in_flight=number), Timing(duration_s=1)))
        if number == 16:
            tally = Tally()
            tally.add("UNAVAILABLE", 0.1)  # a load without a single answer
        found.append(tally.result(1, OpenLoop(rate=100 * number), Timing(duration_s=1, deadline_s=0.004)))
    return found


def test_the_picture_is_a_png_as_wide_as_it_has_panels(tmp_path: Path) -> None:
    closed = [each for each in results() if each.in_flight is not None]
    opened = [each for each in results() if each.in_flight is None]
    widths = []
    for name, shown in (("closed", closed), ("open", opened), ("both", results())):
        path = plot_load(shown, tmp_path / "new" / f"{name}.png", "a model")
        image = Image.open(io.BytesIO(path.read_bytes()))
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 10  # something is drawn
        widths.append(image.width)
    assert widths[0] < widths[1] < widths[2]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["both.png", "closed.png", "open.png"]
    with pytest.raises(StorageError, match="cannot be written"):
        plot_load(closed, tmp_path / "new" / "both.png" / "under.png", "a model")
    with pytest.raises(ConfigError, match="plot must have at least one load, got none"):
        plot_load([], tmp_path / "none.png", "a model")
