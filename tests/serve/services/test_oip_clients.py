"""Stock clients of the Open Inference Protocol against a real server: answers, errors, streams."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from triton_inputs import cart, digits, scans, tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import torso
from torso.serve import Client, ServeConfig
from torso.serve.services import oip as oip_service
from torso.serve.services import request_handler

STREAM_TIMEOUT_S = 60


@pytest.fixture
def client(served: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def expected(address: str, rows: np.ndarray) -> np.ndarray:
    """Return the probabilities of the digits from torso's own service."""
    with Client(address) as client:
        result = client.classify("digits", rows, top_k=10)
    probabilities = np.empty((len(rows), 10), dtype=np.float32)
    np.put_along_axis(probabilities, result.indices, result.probabilities, axis=1)
    return probabilities


# -- what there is -----------------------------------------------------------------------------------------------------


def test_the_server_is_live_and_ready_and_says_what_it_is(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "torso"
    assert metadata.version == ""  # not to callers whom nobody knows
    assert {"statistics", "model_repository"} <= set(metadata.extensions)
    assert "trace" not in metadata.extensions


def test_a_caller_with_a_token_is_told_the_version(
    config: Callable[..., ServeConfig], running: Any, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("me 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 predict never\n")
    with running(config(token_file=tokens)) as server, triton.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match="no token"):
            client.get_server_metadata()
        metadata = client.get_server_metadata(headers={"authorization": "Bearer test"})
    assert metadata.version == torso.__version__


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("digits", [("tensor", "UINT8", [-1, 8, 8])], [("probabilities", "FP32", [-1, 10])]),
        ("cartpole", [("observations", "FP32", [-1, 4])], [("actions", "INT64", [-1]), ("values", "FP32", [-1, 2])]),
    ],
)
def test_metadata_and_configuration_tell_the_same(
    client: triton.InferenceServerClient, name: str, inputs: list[Any], outputs: list[Any]
) -> None:
    metadata = client.get_model_metadata(name)
    assert (metadata.name, list(metadata.versions)) == (name, ["1"])
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == inputs
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.outputs] == outputs
    config = client.get_model_config(name, as_json=True)["config"]
    assert config["name"] == name
    assert config["max_batch_size"] == 64
    assert "dynamic_batching" in config
    for told, wanted in ((config["input"], inputs), (config["output"], outputs)):
        without_batch = [(each["name"], each["data_type"], list(map(int, each.get("dims", ())))) for each in told]
        assert without_batch == [(name, f"TYPE_{datatype}", shape[1:]) for name, datatype, shape in wanted]


def test_a_model_that_there_is_not_is_not_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("digits", "2")
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("../digits")


def test_an_ending_server_is_live_and_not_ready(config: Callable[..., ServeConfig], running: Any) -> None:
    with running(config()) as server, triton.InferenceServerClient(server.address) as client:
        assert client.is_server_ready()
        server.run(server.server.announce_shutdown())
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert client.infer("cartpole", cart()).as_numpy("actions").shape == (1,)
        server.server.handler.closed = True
        assert not client.is_server_ready()
        with pytest.raises(InferenceServerException, match="shutting down") as caught:
            client.infer("cartpole", cart())
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


# -- answers -----------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_torsos_own_service(served: Any, client: triton.InferenceServerClient) -> None:
    rows = scans(5)
    result = client.infer("digits", digits(5), request_id="an id", parameters={"triton_custom": 1, "other": "x"})
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected(served.address, rows), rtol=1e-4, atol=1e-5)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("an id", "digits", "1")
    observations = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    result = client.infer("cartpole", [tensor("observations", observations, "FP32")], model_version="1")
    with Client(served.address) as own:
        answer = own.act("cartpole", observations)
    np.testing.assert_array_equal(result.as_numpy("actions"), answer.actions)
    np.testing.assert_allclose(result.as_numpy("values"), answer.values, rtol=1e-4, atol=1e-5)


def test_a_large_request_leaves_the_event_loop_and_is_answered_in_pieces(
    client: triton.InferenceServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[tuple[str, str]] = []

    def noting(where: Any, name: str) -> None:
        work = getattr(where, name)

        def noted(*arguments: Any) -> Any:
            places.append((name, threading.current_thread().name.split("_")[0]))
            return work(*arguments)

        monkeypatch.setattr(where, name, noted)

    noting(request_handler, "parse_message")
    noting(oip_service, "read_input")
    frames = np.random.default_rng(0).integers(256, size=(80, 4, 84, 84), dtype=np.uint8)  # 2 MB, more than a batch
    whole = client.infer("frames", [tensor("observations", frames, "UINT8")]).as_numpy("values")
    assert places == [("parse_message", "codec"), ("read_input", "codec")]
    last = client.infer("frames", [tensor("observations", frames[-1:], "UINT8")]).as_numpy("values")
    assert [name for name, place in places[2:] if place != "codec"] == ["parse_message", "read_input"]
    assert whole.shape == (80, 6)
    np.testing.assert_allclose(whole[-1:], last, rtol=1e-4, atol=1e-5)


def test_typed_contents_are_answered_as_raw_ones_are(served: Any, client: triton.InferenceServerClient) -> None:
    request = service_pb2.ModelInferRequest(model_name="digits")
    each = request.inputs.add(name="tensor", datatype="UINT8", shape=[2, 8, 8])
    each.contents.uint_contents.extend(scans(2).ravel().tolist())
    with grpc.insecure_channel(served.address) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert not answer.outputs[0].HasField("contents")
    typed = triton.InferResult(answer).as_numpy("probabilities")
    np.testing.assert_array_equal(typed, client.infer("digits", digits(2)).as_numpy("probabilities"))


def test_the_best_classes_have_their_labels(served: Any, client: triton.InferenceServerClient) -> None:
    wanted = triton.InferRequestedOutput("probabilities", class_count=3)
    result = client.infer("digits", digits(2), outputs=[wanted]).as_numpy("probabilities")
    probabilities = expected(served.address, scans(2))
    for row, named in zip(probabilities, result.tolist(), strict=True):
        values, indices, labels = zip(*(each.decode().split(":") for each in named), strict=True)
        assert list(map(int, indices)) == np.argsort(-row)[:3].tolist()
        assert labels == indices  # of digits
        np.testing.assert_allclose(list(map(float, values)), np.sort(row)[::-1][:3], atol=2e-5)


def test_the_async_client_is_answered(served: Any) -> None:
    async def scenario() -> None:
        async with triton_aio.InferenceServerClient(served.address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(
                *(client.infer("digits", digits(1, seed), request_id=str(seed)) for seed in range(20))
            )
        assert [result.get_response().id for result in results] == [str(seed) for seed in range(20)]
        rows = np.concatenate([scans(1, seed) for seed in range(20)])
        got = np.concatenate([result.as_numpy("probabilities") for result in results])
        np.testing.assert_allclose(got, expected(served.address, rows), rtol=1e-4, atol=1e-5)

    asyncio.run(scenario())


# -- streams -----------------------------------------------------------------------------------------------------------


def test_a_streams_answers_come_in_order_and_its_errors_leave_it_open(
    served: Any, client: triton.InferenceServerClient
) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for seed in range(150):
        model = "nobody" if seed % 10 == 7 else "digits"
        client.async_stream_infer(model, digits(1, seed), request_id=str(seed), enable_empty_final_response=seed == 3)
    got = [answers.get(timeout=STREAM_TIMEOUT_S) for _ in range(150)]
    client.stop_stream()
    wrong = [seed for seed, (_, error) in enumerate(got) if error is not None]
    assert wrong == list(range(7, 150, 10))
    assert "unknown model 'nobody'" in str(got[7][1])
    right = [seed for seed in range(150) if seed not in wrong]
    assert [got[seed][0].get_response().id for seed in right] == list(map(str, right))
    assert got[3][0].get_response().parameters["triton_final_response"].bool_param
    assert not got[4][0].get_response().parameters
    rows = np.concatenate([scans(1, seed) for seed in right])
    probabilities = np.concatenate([got[seed][0].as_numpy("probabilities") for seed in right])
    np.testing.assert_allclose(probabilities, expected(served.address, rows), rtol=1e-4, atol=1e-5)


def test_an_async_stream_is_answered(served: Any) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for seed in range(10):
            yield {"model_name": "digits", "inputs": digits(2, seed), "request_id": str(seed)}

    async def scenario() -> list[str]:
        async with triton_aio.InferenceServerClient(served.address) as client:
            return [
                result.get_response().id
                async for result, error in client.stream_infer(requests())
                if error is None and result.as_numpy("probabilities").shape == (2, 10)
            ]

    assert asyncio.run(asyncio.wait_for(scenario(), STREAM_TIMEOUT_S)) == [str(seed) for seed in range(10)]


def test_bytes_that_are_no_request_are_an_error_in_the_stream(served: Any) -> None:
    good = service_pb2.ModelInferRequest(model_name="digits", id="good")
    good.inputs.add(name="tensor", datatype="UINT8", shape=[1, 8, 8])
    good.raw_input_contents.append(scans(1).tobytes())
    with grpc.insecure_channel(served.address) as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        got = list(stream(iter([b"\xff", good.SerializeToString()]), timeout=30))
    first, second = map(service_pb2.ModelStreamInferResponse.FromString, got)
    assert "1 bytes that cannot be parsed" in first.error_message
    assert second.error_message == ""
    assert second.infer_response.id == "good"


def wait_until(condition: Callable[[], bool]) -> None:
    """Run the server until a condition holds; the test's own time limit ends this otherwise."""
    while not condition():
        time.sleep(0.001)


def test_what_a_vanished_streams_client_had_queued_is_dropped(
    config: Callable[..., ServeConfig], running: Any, gate: Any
) -> None:
    with running(config(), gate.wrap) as server:
        model = server.server.repository.get("cartpole")
        gate.close()
        with triton.InferenceServerClient(server.address) as busy, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(busy.infer, "cartpole", cart())
            assert gate.entered.wait(30)
            with triton.InferenceServerClient(server.address) as client:
                client.start_stream(lambda result, error: None)
                for _ in range(5):
                    client.async_stream_infer("cartpole", cart())
                wait_until(lambda: model.batcher.queued_rows == 5)
                client.stop_stream(cancel_requests=True)
            wait_until(lambda: model.batcher.queued_rows == 0)
            gate.open()
            assert waiting.result(30).as_numpy("actions").shape == (1,)
        assert gate.batches == [1]
        wait_until(lambda: model.metrics.statuses.get("CANCELLED") == 5)
