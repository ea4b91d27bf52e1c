"""ActStream over the wire: the same actions as local play, and errors that affect only their own request."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torso.errors import (
    DeadlineError,
    InternalServiceError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    UnavailableError,
    UnknownModelError,
    WrongKindError,
)
from torso.nets import InputSpec, MLPSpec, NetworkSpec, Predictor, ScalarHeadSpec, build_network, save_model
from torso.nets.prediction.atari_frames import preprocess, stack
from torso.nets.prediction.backend import Outputs
from torso.proto import prediction_pb2 as pb
from torso.serve import AsyncClient, Client, StepResult
from torso.serve.client.stream_steps import settle
from torso.serve.services.act_stream import MAX_CONCURRENT
from torso.serve.wire.status import DETAILS_KEY
from torso.serve.wire.tensors import array_to_tensor

Array = np.ndarray[Any, Any]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # of answers that another backend, or another batch, computed
STILL = np.zeros(4, np.float32)


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def here(models: Any) -> Predictor:
    """The model of frames, in this process."""
    return Predictor.load(models.frames)


def values(predictor: Predictor, observation: Array) -> Array:
    return predictor.run(predictor.prepare(observation))[0]


# playing


def test_frames_are_answered_as_local_play_would(served: Any, here: Predictor) -> None:
    with Client(served.address) as client, client.act_stream("frames") as stream:
        expected = None
        for index in range(6):
            raw = noise(index, 2, 210, 160, 3)
            expected = stack(expected, preprocess(raw))
            answer = stream.act(raw if index % 2 == 0 else preprocess(raw), start=index == 0)
            np.testing.assert_allclose(answer.values, values(here, expected), **CLOSE)
            assert answer.values.dtype == np.float32
            assert answer.action == int(answer.values.argmax()) + 1  # action_start
            assert answer.version == "1"
        whole = stream.act(noise(9, 4, 84, 84))
        np.testing.assert_allclose(whole.values, values(here, noise(9, 4, 84, 84)), **CLOSE)


def test_episodes_at_once_are_each_their_own(served: Any, here: Predictor) -> None:
    planes = noise(0, 5, 16, 84, 84)  # [step, episode, ...]

    async def scenario() -> None:
        async with AsyncClient(served.address) as client, client.act_stream("frames") as stream:
            obs: list[Array | None] = [None] * 16
            for step in planes:
                asked = (stream.act(plane, episode=7 * i, start=obs[i] is None) for i, plane in enumerate(step))
                answers = await asyncio.gather(*asked)
                for i, answer in enumerate(answers):
                    obs[i] = stack(obs[i], step[i])
                    np.testing.assert_allclose(answer.values, values(here, obs[i]), **CLOSE)

    asyncio.run(scenario())


def test_one_episodes_requests_need_not_wait_for_answers(
    running: Any, config: Any, models: Any, gate: Any, here: Predictor
) -> None:
    planes = noise(0, 9, 84, 84)
    with (
        running(config(models.frames), gate.wrap) as server,
        Client(server.address) as client,
        client.act_stream("frames") as stream,
    ):
        gate.close()
        asked = [stream.submit(plane, start=index in (0, 5)) for index, plane in enumerate(planes)]
        another = stream.submit(planes[0], episode=1, start=True)
        wait_for(
            lambda: server.server.handler._in_flight == 2
        )  # so all are read, and the first episode's wait their turn
        gate.open()
        obs = None
        for index, plane in enumerate(planes):
            obs = stack(None if index in (0, 5) else obs, plane)
            np.testing.assert_allclose(asked[index].result(30).values, values(here, obs), **CLOSE)
        np.testing.assert_allclose(another.result(30).values, values(here, stack(None, planes[0])), **CLOSE)


def test_draws_are_those_of_local_play(served: Any, models: Any) -> None:
    local = Predictor.load(models.cartpole)
    rng = np.random.default_rng(5)
    with Client(served.address) as client, client.act_stream("cartpole") as stream:
        for index, observation in enumerate(np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)):
            expected = local.act(observation, epsilon=0.6, rng=rng)[0]
            seed = 5 if index == 0 else None
            answer = stream.act(observation, start=index == 0, epsilon=0.6, seed=seed)
            assert [answer.action] == expected.tolist()
        unlike = [[stream.act(STILL, episode=i, start=not n, epsilon=1.0).action for n in range(48)] for i in range(2)]
        assert unlike[0] != unlike[1]  # the system's entropy


# batches and order


def test_episodes_share_batches_and_answers_keep_their_order(running: Any, config: Any, models: Any, gate: Any) -> None:
    with (
        running(config(models.cartpole), gate.wrap) as server,
        Client(server.address) as client,
        client.act_stream("cartpole") as stream,
    ):
        gate.close()
        asked = [
            stream.submit(np.full(4, index, np.float32), episode=index, start=True)
            for index in range(3 * MAX_CONCURRENT)
        ]
        ended: list[int] = []
        for index, each in enumerate(asked):
            each.add_done_callback(lambda _, index=index: ended.append(index))
        wait_for(lambda: server.server.handler._in_flight == MAX_CONCURRENT)  # the rest are not read
        assert server.server.handler._in_flight == MAX_CONCURRENT
        gate.open()
        expected = Predictor.load(models.cartpole)
        for index, each in enumerate(asked):
            np.testing.assert_allclose(each.result(30).values, values(expected, np.full(4, index, np.float32)), **CLOSE)
        assert ended == list(range(3 * MAX_CONCURRENT))
        assert max(gate.batches) > 1
        assert sum(gate.batches) == 3 * MAX_CONCURRENT


def test_streams_and_calls_share_batches(running: Any, config: Any, models: Any, gate: Any) -> None:
    with (
        running(config(models.cartpole), gate.wrap) as server,
        Client(server.address) as client,
        client.act_stream("cartpole") as one,
        client.act_stream("cartpole") as two,
        ThreadPoolExecutor(1) as pool,
    ):
        gate.close()
        first = one.submit(STILL, start=True)
        assert gate.entered.wait(30)
        others = [one.submit(STILL, episode=1, start=True), two.submit(STILL, start=True)]
        alone = pool.submit(client.act, "cartpole", np.zeros((2, 4), np.float32))
        batcher = server.server.repository.get("cartpole").batcher
        wait_for(lambda: batcher.queued_rows == 4)
        gate.open()
        for each in (first, *others, alone):
            each.result(30)
        assert gate.batches == [1, 4]


# what goes wrong with one request


@pytest.mark.parametrize(
    ("request_of", "error", "says", "field"),
    [
        ({"episode": 9}, WrongKindError, "episode 9 is unknown to this stream", None),
        ({"epsilon": 1.5}, InvalidRequestError, "epsilon must be a number in .0, 1., got 1.5", "epsilon"),
        ({"epsilon": float("nan")}, InvalidRequestError, "epsilon must be .*, got nan", "epsilon"),
        ({"seed": 3}, InvalidRequestError, "seed must be unset but where an episode starts, got 3 without", "seed"),
        ({"observation": None}, InvalidRequestError, "observation must be a tensor, got none", "observation"),
        ({"end": True}, InvalidRequestError, "observation must be unset with `end`, got a tensor", "observation"),
        ({"model": "frames"}, InvalidRequestError, "model must be empty after .* 'cartpole', got 'frames'", "model"),
        (
            {"version": "2"},
            InvalidRequestError,
            "version must be empty after a stream's first request",
            "version",
        ),
        (
            {"observation": array_to_tensor(np.zeros(3, np.float32))},
            InvalidRequestError,
            r"observation.shape must be float32 \[4\], got float32 \[3\]",
            "observation.shape",
        ),
        (
            {"observation": pb.Tensor(dtype="float32", shape=[4], data=b"123")},
            InvalidRequestError,
            "observation.data must be 16 bytes",
            "observation.data",
        ),
    ],
)
def test_a_requests_error_is_its_own(
    served: Any, request_of: dict[str, Any], error: type[ServiceError], says: str, field: str | None
) -> None:
    good = array_to_tensor(STILL)
    requests = [
        pb.ActStreamRequest(model="cartpole", episode=1, start=True, observation=good),
        pb.ActStreamRequest(**{"episode": 1, "observation": good, **request_of}),
        pb.ActStreamRequest(episode=1, observation=good),
        pb.ActStreamRequest(model="cartpole", episode=2, start=True, observation=good),
    ]
    first, bad, *rest = talk(served.address, requests)
    assert not any(answer.HasField("error") for answer in (first, *rest))
    assert [answer.episode for answer in (first, *rest)] == [1, 1, 2]
    assert bad.episode == request_of.get("episode", 1)
    assert not bad.HasField("values")
    told: Future[StepResult] = Future()
    settle(told, bad)  # as a client tells it
    with pytest.raises(error, match=says) as caught:
        told.result(0)
    assert [name for name, _ in caught.value.violations] == ([field] if field else [])


def talk(address: str, requests: list[pb.ActStreamRequest] | list[bytes]) -> list[pb.ActStreamResponse]:
    """Responses of the service, without torso's client between."""
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream("/torso.v1.PredictionService/ActStream")
        sent = (each if isinstance(each, bytes) else each.SerializeToString() for each in requests)
        return [pb.ActStreamResponse.FromString(answer) for answer in call(sent, timeout=60)]


def test_an_episode_is_as_it_was_before_a_request_that_failed(
    running: Any, config: Any, models: Any, here: Predictor
) -> None:
    class FailsOnSeven:
        name = "fails"

        def __init__(self, backend: Any) -> None:
            self.backend = backend

        def run(self, inputs: Array, *state: Array) -> Outputs:
            if (inputs[:, -1] == 7).all(axis=(1, 2)).any():
                raise RuntimeError("seven")
            return self.backend.run(inputs, *state)

    first, bad, second = noise(0, 84, 84), np.full((84, 84), 7, np.uint8), noise(1, 84, 84)
    expected = values(here, stack(stack(None, first), second))
    with (
        running(config(models.frames), lambda _, backend: FailsOnSeven(backend)) as server,
        Client(server.address) as client,
        client.act_stream("frames") as stream,
    ):
        stream.act(first, start=True)
        for epsilon in (0.0, 2.0):
            with pytest.raises(InternalServiceError if not epsilon else InvalidRequestError) as caught:
                stream.act(bad if not epsilon else first, epsilon=epsilon)
            assert "seven" not in str(caught.value)
        with pytest.raises(InternalServiceError):
            stream.act(bad, start=True)  # does not begin, so the one before goes on
        asked = stream.submit(bad), stream.submit(second)  # also where the next is on its way already
        with pytest.raises(InternalServiceError, match="the server's log has it under id"):
            asked[0].result(30)
        np.testing.assert_allclose(asked[1].result(30).values, expected, **CLOSE)


def test_a_full_queue_and_what_is_held(running: Any, config: Any, models: Any, gate: Any) -> None:
    limits = {"max_queue_rows": 2, "max_episodes": 3}
    with (
        running(config(models.cartpole, **limits), gate.wrap) as server,
        Client(server.address) as client,
        client.act_stream("cartpole") as stream,
    ):
        for number in range(3):
            stream.act(STILL, episode=number, start=True)
        with pytest.raises(OverloadedError, match="holds 3 episodes, the most that one may"):
            stream.act(STILL, episode=3, start=True)
        stream.act(STILL, episode=2, start=True)
        stream.end(1)
        stream.act(STILL, episode=3, start=True)
        with client.act_stream("cartpole") as other:
            other.act(STILL, start=True)  # a stream's own matter
        gate.close()
        asked = [stream.submit(STILL, episode=0)]
        assert gate.entered.wait(30)
        asked += [stream.submit(STILL, episode=number) for number in (2, 3)]
        with client.act_stream("cartpole") as other:
            with ThreadPoolExecutor(1) as pool:
                batcher = server.server.repository.get("cartpole").batcher
                wait_for(lambda: batcher.queued_rows == 2)
                refused = pool.submit(other.act, STILL, start=True).exception(30)
            assert isinstance(refused, OverloadedError)
            assert "queued" in str(refused)
            assert refused.retry_after_s is not None
            gate.open()
            for each in asked:
                each.result(30)
            with pytest.raises(WrongKindError, match="unknown"):
                other.act(STILL)
            other.act(STILL, start=True)


# what ends a stream


@pytest.mark.parametrize(
    ("first", "code", "says"),
    [
        (pb.ActStreamRequest(start=True), grpc.StatusCode.INVALID_ARGUMENT, "model must be given by name"),
        (pb.ActStreamRequest(model="nobody"), grpc.StatusCode.NOT_FOUND, "unknown model 'nobody'"),
        (pb.ActStreamRequest(model="frames", version="9"), grpc.StatusCode.NOT_FOUND, "unknown version '9'"),
        (pb.ActStreamRequest(model="digits"), grpc.StatusCode.FAILED_PRECONDITION, "is a classifier"),
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "cannot be parsed"),
    ],
)
def test_a_stream_that_never_begins(served: Any, first: Any, code: grpc.StatusCode, says: str) -> None:
    good = pb.ActStreamRequest(model="cartpole", start=True, observation=array_to_tensor(STILL))
    with pytest.raises(grpc.RpcError, match=says) as caught:
        talk(served.address, [first, good])
    assert caught.value.code() is code
    assert DETAILS_KEY in dict(caught.value.trailing_metadata())
    assert "Traceback" not in str(caught.value)


def test_what_cannot_be_read_ends_a_stream_once_what_came_before_is_answered(served: Any) -> None:
    good = pb.ActStreamRequest(model="cartpole", start=True, observation=array_to_tensor(STILL)).SerializeToString()
    with grpc.insecure_channel(served.address) as channel:
        call = channel.stream_stream("/torso.v1.PredictionService/ActStream")(iter([good, good, b"\xff"]), timeout=60)
        assert not pb.ActStreamResponse.FromString(next(call)).HasField("error")
        assert not pb.ActStreamResponse.FromString(next(call)).HasField("error")
        with pytest.raises(grpc.RpcError, match="cannot be parsed"):
            next(call)


def test_an_idle_stream_ends_and_says_so(running: Any, config: Any, models: Any) -> None:
    with running(config(models.cartpole, stream_idle_s=0.2)) as server, Client(server.address) as client:
        stream = client.act_stream("cartpole")
        stream.act(STILL, start=True)
        stream._reading.join(30)
        with pytest.raises(DeadlineError, match=r"the stream had no request for 0.2 s"):
            stream.act(STILL)
        stream.close()


def test_a_stream_whose_answers_nobody_takes_is_cut_off(
    running: Any, config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = pb.ActStreamRequest(model="wide", start=True, observation=array_to_tensor(STILL)).SerializeToString()
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=()), head=ScalarHeadSpec(num_actions=10_000))
    wide = save_model(tmp_path / "wide", build_network(spec), kind="policy", onnx=False)  # of answers of 40 kB
    log_requests = {"log_requests": True, "stream_idle_s": 0.3}
    with running(config(wide, **log_requests)) as server, grpc.insecure_channel(server.address) as channel:
        caplog.set_level(logging.INFO, "torso")
        call = channel.stream_stream("/torso.v1.PredictionService/ActStream")(iter([good] * 100_000), timeout=60)
        wait_for(lambda: "act_stream stream of wide CANCELLED" in caplog.text)
        assert server.server.repository.get("wide").metrics.statuses["OK"] < 10_000  # it stopped reading
        assert not server.server.handler.busy
        with pytest.raises(grpc.RpcError, match="the client did not read the stream's answers"):
            list(call)


def test_a_client_that_vanishes_leaves_nothing(running: Any, config: Any, models: Any, gate: Any) -> None:
    with running(config(models.cartpole), gate.wrap) as server:
        model = server.server.repository.get("cartpole")
        gate.close()
        client = Client(server.address)
        stream = client.act_stream("cartpole")
        asked = [stream.submit(STILL, episode=number, start=True) for number in range(40)]
        assert gate.entered.wait(30)
        wait_for(lambda: model.batcher.queued_rows + gate.batches[0] == 40)
        client.close()
        for each in asked:
            assert isinstance(each.exception(30), ServiceError)
        wait_for(lambda: not server.server.handler.busy)
        wait_for(lambda: model.metrics.in_flight == 0)
        assert model.batcher.queued_rows == 0
        assert model.metrics.statuses == {"CANCELLED": 40}
        gate.open()
        with Client(server.address) as other, other.act_stream("cartpole") as anew:
            anew.act(STILL, start=True)


def test_a_server_that_ends_answers_what_it_has_and_then_ends_streams(
    running: Any, config: Any, models: Any, gate: Any
) -> None:
    with (
        running(config(models.cartpole), gate.wrap) as server,
        Client(server.address) as client,
        client.act_stream("cartpole") as stream,
        client.act_stream("cartpole") as quiet,
    ):
        stream.act(STILL, start=True)
        quiet.act(STILL, start=True)
        gate.close()
        asked = stream.submit(STILL)
        assert gate.entered.wait(30)
        draining = asyncio.run_coroutine_threadsafe(server.server.drain(), server.loop)
        wait_for(lambda: server.server.handler.closed)
        late = stream.submit(STILL, episode=1, start=True)
        gate.open()
        assert asked.result(30).values.shape == (2,)
        with pytest.raises(UnavailableError, match="shutting down"):
            late.result(30)
        stream._reading.join(30)
        with pytest.raises(UnavailableError, match="shutting down"):  # that was the whole stream's end
            stream.act(STILL)
        draining.result(30)
        quiet._reading.join(30)
        with pytest.raises(UnavailableError):
            quiet.act(STILL)


# models that change


def test_a_stream_goes_on_with_the_version_that_serves(
    folder: Path, explicit: Callable[..., Any], publish: Callable[[Path, float], Path], running: Any
) -> None:
    publish(folder / "way" / "1", 1.0)
    with (
        running(explicit(load_models=("way",))) as server,
        Client(server.address) as client,
        client.act_stream("way") as stream,
        client.act_stream("way", version="1") as own,
    ):
        first = stream.act(STILL, start=True)
        assert (first.action, first.version, own.act(STILL, start=True).version) == (0, "1", "1")
        publish(folder / "way" / "2", -1.0)
        server.run(server.server.control.load("way"))
        second = stream.act(STILL)
        assert (second.action, second.version) == (1, "2")
        with pytest.raises(UnknownModelError, match="unknown version '1'"):
            own.act(STILL)
        server.run(server.server.control.unload("way"))
        with pytest.raises(UnknownModelError, match="unknown model 'way'"):
            stream.act(STILL)
        server.run(server.server.control.load("way"))
        assert stream.act(STILL).version == "2"  # the same episode


# counting


def test_every_request_is_counted(running: Any, config: Any, models: Any) -> None:
    with running(config(models.cartpole)) as server, Client(server.address) as client:
        metrics = server.server.repository.get("cartpole").metrics
        with client.act_stream("cartpole") as stream:
            stream.act(STILL, start=True)
            for _ in range(4):
                stream.act(STILL)
            stream.end()
            with pytest.raises(WrongKindError):
                stream.act(STILL)
            with pytest.raises(InvalidRequestError):
                stream.act(STILL, start=True, epsilon=-1)
        assert metrics.in_flight == 0
        assert metrics.statuses == {"OK": 5, "FAILED_PRECONDITION": 1, "INVALID_ARGUMENT": 1}
        assert sum(metrics.total.counts) == 7
        with pytest.raises(grpc.RpcError):
            talk(server.address, [pb.ActStreamRequest(model="nobody")])
        assert server.server.handler.metrics.unknown.statuses["NOT_FOUND"] == 1


def test_streams_need_a_token_where_calls_do(running: Any, config: Any, models: Any, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"player {hashlib.sha256(b'right').hexdigest()} predict never\n")
    with (
        running(config(models.cartpole, token_file=tokens)) as server,
        Client(server.address, "right") as client,
        client.act_stream("cartpole") as stream,
    ):
        stream.act(STILL, start=True)
        with pytest.raises(grpc.RpcError) as caught:
            talk(server.address, [pb.ActStreamRequest(model="cartpole")])
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


# anything at all

numbers = st.integers(0, 3)
messages = st.builds(
    pb.ActStreamRequest,
    model=st.sampled_from(["", "", "", "cartpole", "frames", "digits", "nobody"]),
    version=st.sampled_from(["", "", "", "1", "2"]),
    episode=numbers,
    start=st.booleans(),
    observation=st.none()
    | st.sampled_from([array_to_tensor(STILL), array_to_tensor(noise(0, 84, 84)), array_to_tensor(np.zeros(3))])
    | st.builds(
        pb.Tensor,
        dtype=st.sampled_from(["uint8", "float32", "object"]),
        shape=st.lists(st.integers(-1, 84), max_size=5),
        data=st.binary(max_size=20),
    ),
    epsilon=st.floats() | st.just(0.0),
    seed=st.none() | numbers,
    end=st.booleans(),
)
bodies = st.binary(max_size=30) | messages.map(lambda message: message.SerializeToString())


def test_any_messages_give_answers_or_a_status(served: Any, caplog: pytest.LogCaptureFixture) -> None:
    fine = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OK"}
    seen = set()
    start = pb.ActStreamRequest(model="cartpole", start=True, observation=array_to_tensor(STILL)).SerializeToString()
    with grpc.insecure_channel(served.address) as channel:
        call = channel.stream_stream("/torso.v1.PredictionService/ActStream")

        @settings(
            max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
        )
        @given(st.booleans(), st.lists(bodies, max_size=12))
        def play(begun: bool, requests: list[bytes]) -> None:
            answers = call(iter([start] * begun + requests), timeout=60)
            try:
                for answer in answers:
                    pb.ActStreamResponse.FromString(answer)
            except grpc.RpcError:
                assert answers.code().name in fine, answers.details()
            seen.add(answers.code().name)

        play()
    assert seen == fine
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
