"""Recurrent models over gRPC: every step is the bare network's own, whoever shares its batch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from recurrent_torso import WIDTH, save_recurrent, unrolled

from torso.errors import InternalServiceError, InvalidRequestError, ServerError, WrongKindError
from torso.proto import oip_pb2
from torso.proto import prediction_pb2 as pb
from torso.serve import AsyncClient, Client, RetryPolicy, ServeConfig
from torso.serve.client.results import TensorSpec
from torso.serve.wire.oip_tensors import OIP_SERVICE
from torso.serve.wire.tensors import array_to_tensor
from torso.serve.workers.supervisor import Supervisor

Array = np.ndarray[Any, Any]
Configure = Callable[..., ServeConfig]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
OBS = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
STATE = (np.zeros((3, WIDTH), np.float32), np.zeros((3, WIDTH), np.float32), np.zeros(3, np.int64))


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_recurrent(tmp_path_factory.mktemp("models") / "memory")


@pytest.fixture(scope="module")
def served(memory: Path, running: Any) -> Iterator[Any]:
    """One server of the recurrent policy, for tests that change nothing."""
    with running(ServeConfig(models=(str(memory),), port=0)) as server:
        yield server


def assert_states(states: Any, expected: Any) -> None:
    for part, own in zip(states, expected, strict=True):
        assert part.dtype == own.dtype
        np.testing.assert_allclose(part, own, **CLOSE)


def rows(state: Any, chosen: Any) -> tuple[Array, ...]:
    return tuple(part[chosen] for part in state)


# -- Act ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"backend": "torch"}, {"max_batch_rows": 2}, {"max_delay_us": 1000}])
def test_served_steps_are_the_networks_own_sequence(
    memory: Path, config: Configure, running: Any, settings: dict[str, Any]
) -> None:
    values, states = unrolled(memory, OBS)
    with running(config(memory, **settings)) as server, Client(server.address) as client:
        assert client.get_model("memory").backend == settings.get("backend", "onnx")
        state: tuple[Array, ...] = ()
        for obs, own_values, own_state in zip(OBS, values, states, strict=True):
            answer = client.act("memory", obs, state)
            np.testing.assert_allclose(answer.values, own_values, **CLOSE)
            assert answer.actions.tolist() == (own_values.argmax(axis=1) + 5).tolist()
            assert_states(answer.state, own_state)
            state = answer.state
        first = client.act("memory", OBS[0])  # another episode
        np.testing.assert_allclose(first.values, values[0], **CLOSE)


def test_callers_that_share_a_batch_have_their_own_state(
    memory: Path, config: Configure, running: Any, gate: Any
) -> None:
    values, states = unrolled(memory, OBS)
    with (
        running(config(memory, max_batch_rows=4), gate.wrap) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(5) as pool,
    ):
        batcher = server.server.repository.get("memory").batcher
        gate.close()
        busy = pool.submit(client.act, "memory", OBS[0])
        assert gate.entered.wait(30)
        requests: list[tuple[Array, Any]] = [
            (OBS[2, [2]], rows(states[1], [2])),
            (OBS[0, [1]], ()),  # at an episode's start
            (OBS[4, :2], rows(states[3], slice(2))),
            (np.tile(OBS[3], (2, 1)), [np.concatenate([part, part]) for part in states[2]]),  # more than a batch holds
        ]
        asked, queued = [busy], 0
        for obs, state in requests:
            asked.append(pool.submit(client.act, "memory", obs, state))
            queued += len(obs)
            while batcher.queued_rows < queued:
                time.sleep(0.001)
        gate.open()
        answers = [each.result(30) for each in asked]
    assert gate.batches == [3, 4, 4, 2]
    expected = [
        (values[0], states[0]),
        (values[2][[2]], rows(states[2], [2])),
        (values[0][[1]], rows(states[0], [1])),
        (values[4][:2], rows(states[4], slice(2))),
        (np.tile(values[3], (2, 1)), [np.concatenate([s, s]) for s in states[3]]),
    ]
    for answer, (own_values, own_state) in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.values, own_values, **CLOSE)
        assert_states(answer.state, own_state)


def test_no_caller_fails_for_another_of_its_batch(memory: Path, config: Configure, running: Any) -> None:
    class FailsOnNine:
        name = "fails"
        inline = False

        def __init__(self, backend: Any) -> None:
            self.backend = backend
            self.initial_state = backend.initial_state
            self.rows: list[int] = []

        def run(self, inputs: Array, *state: Array) -> Any:
            self.rows.append(len(inputs))
            if (inputs[:, 0] == 9).any():
                raise RuntimeError("nine")
            return self.backend.run(inputs, *state)

    values, states = unrolled(memory, OBS)
    wrapped: list[FailsOnNine] = []

    def wrap(_name: str, backend: Any) -> FailsOnNine:
        wrapped.append(FailsOnNine(backend))
        return wrapped[0]

    with (
        running(config(memory, max_delay_us=1_000_000, max_batch_rows=4), wrap) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        del wrapped[0].rows[:]
        bad = pool.submit(client.act, "memory", np.full((1, 4), 9, np.float32))
        good = pool.submit(client.act, "memory", OBS[1], states[0])  # fills the batch
        with pytest.raises(InternalServiceError):
            bad.result(30)
        answer = good.result(30)
    assert wrapped[0].rows[0] == 4
    assert sorted(wrapped[0].rows[1:]) == [1, 3]
    np.testing.assert_allclose(answer.values, values[1], **CLOSE)
    assert_states(answer.state, states[1])


TENSORS = [array_to_tensor(part) for part in STATE]


@pytest.mark.parametrize(
    ("state", "field", "description"),
    [
        (
            TENSORS[:2],
            "state",
            "must be 3 tensors (float32 [batch, 8], float32 [batch, 8], int64 [batch]) or none, got 2",
        ),
        ([*TENSORS, TENSORS[0]], "state", "or none, got 4"),
        (
            [array_to_tensor(STATE[0][:2]), *TENSORS[1:]],
            "state[0].shape",
            "must be [3, 8], a row for each observation, got [2, 8]",
        ),
        ([TENSORS[0], array_to_tensor(STATE[1].T), TENSORS[2]], "state[1].shape", "must be [3, 8], "),
        ([*TENSORS[:2], array_to_tensor(STATE[2].astype(np.int32))], "state[2].dtype", "must be int64, got int32"),
        ([array_to_tensor(STATE[0] + np.float32(np.nan)), *TENSORS[1:]], "state[0]", "must be finite numbers, got NaN"),
        (
            [TENSORS[0], pb.Tensor(dtype="float32", shape=[3, 8], data=b"x"), TENSORS[2]],
            "state[1].data",
            "must be 96 bytes for shape [3, 8] of float32, got 1 bytes",
        ),
        ([TENSORS[0], pb.Tensor(dtype="str"), TENSORS[2]], "state[1].dtype", "got 'str'"),
    ],
)
def test_a_state_that_does_not_fit_is_an_invalid_argument(
    stub: Any, refused: Any, state: Any, field: str, description: str
) -> None:
    with refused(InvalidRequestError, field=field, description=description):
        stub.Act(pb.ActRequest(model="memory", observations=array_to_tensor(OBS[0]), state=state))


def test_a_client_brings_states_into_the_models_dtypes(memory: Path, served: Any) -> None:
    values, states = unrolled(memory, OBS)
    with Client(served.address) as client:
        info = client.get_model("memory")
        state = [
            TensorSpec(name="state_0", dtype="float32", shape=(WIDTH,)),
            TensorSpec(name="state_1", dtype="float32", shape=(WIDTH,)),
            TensorSpec(name="state_2", dtype="int64", shape=()),
        ]
        assert info.inputs == (TensorSpec(name="observations", dtype="float32", shape=(4,)), *state)
        assert info.outputs == (TensorSpec(name="values", dtype="float32", shape=(3,)), *state)
        answer = client.act("memory", OBS[1].tolist(), [part.tolist() for part in states[0]])
        np.testing.assert_allclose(answer.values, values[1], **CLOSE)
        one = client.act("memory", OBS[1, 0], rows(states[0], 0))  # without a batch axis, as one observation
        np.testing.assert_allclose(one.values, values[1][:1], **CLOSE)
        with pytest.raises(InvalidRequestError, match=r"state must be 3 tensors .* got 1"):
            client.act("memory", OBS[1], states[0][:1])

    async def steps() -> None:
        async with AsyncClient(served.address) as client:
            first = await client.act("memory", OBS[0])
            second = await client.act("memory", OBS[1], first.state)
            np.testing.assert_allclose(second.values, values[1], **CLOSE)
            assert_states(second.state, states[1])

    asyncio.run(steps())


# -- ActStream ---------------------------------------------------------------------------------------------------------


def test_a_stream_holds_each_episodes_state(memory: Path, served: Any) -> None:
    values, _ = unrolled(memory, OBS)
    with Client(served.address) as client, client.act_stream("memory") as stream:
        asked = [
            [stream.submit(OBS[step, episode], episode=episode, start=step == 0) for episode in range(3)]
            for step in range(5)
        ]
        for futures, own in zip(asked, values, strict=True):
            np.testing.assert_allclose([each.result(30).values for each in futures], own, **CLOSE)
        with pytest.raises(InvalidRequestError):
            stream.act(OBS[0, 0, :3])  # which changes nothing
        again = stream.act(OBS[0, 1], episode=1, start=True)
        np.testing.assert_allclose(again.values, values[0][1], **CLOSE)
        other = stream.act(OBS[1, 1], episode=1)
        np.testing.assert_allclose(other.values, values[1][1], **CLOSE)
        actions, numbers = stream.act_together(OBS[0])
        assert actions.tolist() == (values[0].argmax(axis=1) + 5).tolist()
        actions, _ = stream.act_together(OBS[1], numbers)
        assert actions.tolist() == (values[1].argmax(axis=1) + 5).tolist()


def test_an_episode_goes_on_in_a_version_that_takes_its_state_and_in_no_other(
    tmp_path: Path, config: Configure, running: Any
) -> None:
    repository = tmp_path / "repository"
    directory = save_recurrent(repository / "m" / "1", onnx=False)
    _, states = unrolled(directory, OBS[:1])
    settings = {"repository": repository, "models": (), "model_control": "explicit", "load_models": ("m",)}
    with (
        running(config(**settings, backend="torch")) as server,
        Client(server.address) as client,
        client.act_stream("m") as stream,
    ):
        stream.act(OBS[0, 0], start=True)
        save_recurrent(repository / "m" / "2", onnx=False, seed=1)
        server.run(server.server.control.load("m"))
        other = client.act("m", OBS[1, :1], rows(states[0], slice(1)))
        assert other.version == "2"
        np.testing.assert_allclose(stream.act(OBS[1, 0]).values, other.values[0], **CLOSE)
        save_recurrent(repository / "m" / "3", onnx=False, width=4)
        server.run(server.server.control.load("m"))
        for _ in range(2):
            with pytest.raises(WrongKindError, match=r"cannot go on: its state\[0\].shape must be \[1, 4\], .*`start`"):
                stream.act(OBS[2, 0])
        assert stream.act(OBS[2, 0], start=True).version == "3"


# -- other ways --------------------------------------------------------------------------------------------------------


def test_a_recurrent_classifier_labels_each_row_from_the_start(tmp_path: Path, config: Configure, running: Any) -> None:
    directory = save_recurrent(tmp_path / "sorter", kind="classifier")
    readout = unrolled(directory, OBS)[0][0]
    odds = np.exp(readout)
    with running(config(directory)) as server, Client(server.address) as client:
        assert len(client.get_model("sorter").inputs) == 1
        for _ in range(2):
            answer = client.classify("sorter", OBS[0])
            assert answer.indices[:, 0].tolist() == readout.argmax(axis=1).tolist()
            best = (odds / odds.sum(axis=1, keepdims=True)).max(axis=1)
            np.testing.assert_allclose(answer.probabilities[:, 0], best, **CLOSE)


def test_a_recurrent_policy_is_not_for_the_open_inference_protocol(served: Any) -> None:
    tensor = oip_pb2.ModelInferRequest.InferInputTensor(name="observations", datatype="FP32", shape=(3, 4))
    infer = oip_pb2.ModelInferRequest(model_name="memory", inputs=[tensor], raw_input_contents=[OBS[0].tobytes()])
    with grpc.insecure_channel(served.address) as channel:
        for method, request in (
            ("ModelInfer", infer),
            ("ModelMetadata", oip_pb2.ModelMetadataRequest(name="memory")),
            ("ModelConfig", oip_pb2.ModelConfigRequest(name="memory")),
        ):
            with pytest.raises(grpc.RpcError, match="model 'memory' is recurrent, and this protocol") as caught:
                channel.unary_unary(f"/{OIP_SERVICE}/{method}")(request.SerializeToString())
            assert caught.value.code() == StatusCode.FAILED_PRECONDITION


def test_torch_serves_a_recurrent_network_that_onnx_cannot_express(
    tmp_path: Path, config: Configure, running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    directory = save_recurrent(tmp_path / "strange", strange=True, onnx=False)
    values, states = unrolled(directory, OBS)
    with caplog.at_level(logging.WARNING, "torso"), running(config(directory)) as server:
        assert "torch serves, at less speed: cannot export" in caplog.text
        with Client(server.address) as client:
            answer = client.act("strange", OBS[1], states[0])
            assert client.get_model("strange").backend == "torch"
    np.testing.assert_allclose(answer.values, values[1], **CLOSE)


def test_a_wrapped_backend_that_loses_the_state_is_refused(memory: Path, config: Configure, running: Any) -> None:
    class Forgets:
        name = "forgets"

        def __init__(self, backend: Any) -> None:
            self.run = backend.run

    with (
        pytest.raises(ServerError, match=r"recurrent model 'memory' must have an attribute initial_state, got none"),
        running(config(memory), lambda _name, backend: Forgets(backend)),
    ):
        pass


def test_workers_serve_states(memory: Path, config: Configure) -> None:
    values, states = unrolled(memory, OBS)

    async def scenario() -> None:
        supervisor = Supervisor(config(memory, workers=2, import_modules=("recurrent_torso",)))
        try:
            await supervisor.start()
            await supervisor.load()
            state: tuple[Array, ...] = ()
            for obs, own_values, own_state in zip(OBS, values, states, strict=True):
                async with AsyncClient(supervisor.address, retries=RetryPolicy(max_attempts=5)) as client:
                    answer = await client.act("memory", obs, state)  # of either worker
                np.testing.assert_allclose(answer.values, own_values, **CLOSE)
                assert_states(answer.state, own_state)
                state = answer.state
        finally:
            await supervisor.stop()

    asyncio.run(scenario())
