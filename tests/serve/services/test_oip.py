"""The Open Inference Protocol beside torso's own service: shared batches, counts, errors, and the repository."""

from __future__ import annotations

import hashlib
import queue
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from triton_inputs import cart, digits, scans, tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from torso import errors
from torso.proto import oip_pb2 as pb
from torso.serve import Client, ServeConfig
from torso.serve.services.callers import NOBODY
from torso.serve.services.oip import OipServicer


@pytest.fixture
def client(served: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def wait_until(condition: Callable[[], bool]) -> None:
    """Run the server until a condition holds; the test's own time limit ends this otherwise."""
    while not condition():
        time.sleep(0.001)


# -- one batcher -------------------------------------------------------------------------------------------------------


def test_both_services_share_batches(config: Callable[..., ServeConfig], running: Any, gate: Any) -> None:
    with running(config(), gate.wrap) as server:
        model = server.server.repository.get("cartpole")
        gate.close()
        with (
            triton.InferenceServerClient(server.address) as client,
            Client(server.address) as own,
            ThreadPoolExecutor(3) as pool,
        ):
            first = pool.submit(client.infer, "cartpole", cart())
            assert gate.entered.wait(30)
            second = pool.submit(client.infer, "cartpole", cart([1, 0, 0, 0], [2, 0, 0, 0]))
            third = pool.submit(own.act, "cartpole", [3, 0, 0, 0])
            wait_until(lambda: model.batcher.queued_rows == 3)
            gate.open()
            values = [first.result(30).as_numpy("values"), second.result(30).as_numpy("values")]
            values.append(third.result(30).values)
        assert gate.batches == [1, 3]
        assert [len(each) for each in values] == [1, 2, 1]


def test_statistics_count_each_request_of_both_services(config: Callable[..., ServeConfig], running: Any) -> None:
    with running(config()) as server, triton.InferenceServerClient(server.address) as client:

        def told() -> service_pb2.ModelStatistics:
            [statistics] = client.get_inference_statistics("cartpole").model_stats
            return statistics

        def counts() -> tuple[int, ...]:
            stats = told().inference_stats
            return (
                *(stats.success.count, stats.fail.count, stats.queue.count),
                *(stats.compute_input.count, stats.compute_infer.count, stats.compute_output.count),
            )

        assert counts() == (0, 0, 0, 0, 0, 0)
        for number in range(1, 4):
            client.infer("cartpole", cart())
            assert counts() == (number, 0, number, number, number, number)
        with Client(server.address) as own:
            own.act("cartpole", np.zeros((5, 4)))
        with pytest.raises(InferenceServerException):
            client.infer("cartpole", digits())
        client.start_stream(lambda result, error: answered.put(error))
        answered: queue.Queue[Any] = queue.Queue()
        client.async_stream_infer("cartpole", cart())
        client.async_stream_infer("cartpole", digits())
        assert answered.get(timeout=30) is None
        assert answered.get(timeout=30) is not None
        client.stop_stream()
        wait_until(lambda: counts() == (5, 2, 5, 5, 5, 5))
        statistics = told()
        assert statistics.version == "1"
        assert statistics.inference_count == 9
        assert statistics.execution_count == 5
        assert {batch.batch_size: batch.compute_infer.count for batch in statistics.batch_stats} == {1: 4, 5: 1}
        stats = statistics.inference_stats
        assert 0 < stats.compute_infer.ns < stats.success.ns
        everything = client.get_inference_statistics().model_stats
        assert [each.name for each in everything] == ["cartpole", "digits"]
        with pytest.raises(InferenceServerException, match="unknown model 'nobody'"):
            client.get_inference_statistics("nobody")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "error_class", "field", "description"),
    [
        ("nobody", digits(), None, errors.UnknownModelError, None, ""),
        ("", digits(), None, errors.UnknownModelError, None, ""),
        ("../digits", digits(), None, errors.UnknownModelError, None, ""),
        ("digits", cart(), None, errors.InvalidRequestError, "inputs[0].name", "got 'observations'"),
        (
            "digits",
            [tensor("tensor", scans(1)[:, :7], "UINT8")],
            None,
            errors.InvalidRequestError,
            "inputs[0].shape",
            "[1, 7, 8]",
        ),
        (
            "digits",
            [tensor("tensor", scans(1).astype("f4"), "FP32")],
            None,
            errors.InvalidRequestError,
            "inputs[0].datatype",
            "FP32",
        ),
        ("digits", digits() * 2, None, errors.InvalidRequestError, "inputs", "got 2"),
        (
            "digits",
            digits(),
            [triton.InferRequestedOutput("logits")],
            errors.InvalidRequestError,
            "outputs[0].name",
            "got 'logits'",
        ),
        ("digits", digits(4097), None, errors.InvalidRequestError, "inputs[0].shape", "at most 4096 rows"),
    ],
)
def test_each_error_has_its_status_and_names_the_field(
    served: Any,
    refused: Any,
    model: str,
    inputs: list[triton.InferInput],
    outputs: list[triton.InferRequestedOutput] | None,
    error_class: type[errors.ServiceError],
    field: str | None,
    description: str,
) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    for each in inputs:
        request.inputs.append(each._get_tensor())
        request.raw_input_contents.append(each._get_content())
    request.outputs.extend(output._get_tensor() for output in outputs or ())
    violation = {} if field is None else {"field": field, "description": description}
    with grpc.insecure_channel(served.address) as channel, refused(error_class, **violation):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)


def test_a_full_queue_and_a_late_answer_have_their_statuses(
    config: Callable[..., ServeConfig], running: Any, gate: Any
) -> None:
    with running(config(max_queue_rows=2), gate.wrap) as server:
        model = server.server.repository.get("cartpole")
        gate.close()
        with triton.InferenceServerClient(server.address) as client, ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.infer, "cartpole", cart())
            assert gate.entered.wait(30)
            second = pool.submit(client.infer, "cartpole", cart([0, 0, 0, 0], [0, 0, 0, 0]))
            wait_until(lambda: model.batcher.queued_rows == 2)
            with pytest.raises(InferenceServerException, match="no room for 1 more") as caught:
                client.infer("cartpole", cart())
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
            gate.open()
            first.result(30)
            second.result(30)
        assert gate.batches == [1, 2]


def test_a_deadline_goes_with_its_request_into_the_queue(config: Callable[..., ServeConfig], running: Any) -> None:
    request = pb.ModelInferRequest(model_name="cartpole", raw_input_contents=[bytes(16)])
    request.inputs.add(name="observations", datatype="FP32", shape=[1, 4])
    with running(config()) as server:
        own = server.server
        servicer = OipServicer(own.repository, own.handler, own.control, own.config, lambda: True)
        common = {"metrics": None, "is_heavy": False, "caller": NOBODY}
        late = SimpleNamespace(**common, deadline=time.monotonic() - 1)
        with pytest.raises(errors.DeadlineError):
            server.run(servicer.model_infer(request, late))
        in_time = SimpleNamespace(**common, deadline=time.monotonic() + 60)
        answer = pb.ModelInferResponse.FromString(server.run(servicer.model_infer(request, in_time)))
        assert answer.outputs[0].name == "actions"
        assert in_time.metrics is own.repository.get("cartpole").metrics


# -- the repository ----------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(models: Any, tmp_path: Path) -> Path:
    """Two versions of digits, and a cartpole."""
    shutil.copytree(models.digits, tmp_path / "digits" / "1")
    shutil.copytree(models.digits, tmp_path / "digits" / "3")
    shutil.copytree(models.cartpole, tmp_path / "cartpole" / "2")
    return tmp_path


def states(client: triton.InferenceServerClient) -> dict[tuple[str, str], str]:
    return {(each.name, each.version): each.state for each in client.get_model_repository_index().models}


def test_models_are_loaded_and_unloaded(repository: Path, running: Any) -> None:
    config = ServeConfig(
        repository=repository,
        model_control="explicit",
        version_policy="all",
        load_models=("cartpole",),
        port=0,
        drain_s=0,
    )
    with running(config) as server, triton.InferenceServerClient(server.address) as client:
        assert states(client) == {
            ("cartpole", "2"): "READY",
            ("digits", "1"): "UNAVAILABLE",
            ("digits", "3"): "UNAVAILABLE",
        }
        assert not client.is_model_ready("digits")
        client.load_model("digits")
        assert set(states(client).values()) == {"READY"}
        assert list(client.get_model_metadata("digits").versions) == ["1", "3"]
        assert client.infer("digits", digits()).get_response().model_version == "3"
        assert client.infer("digits", digits(), model_version="1").get_response().model_version == "1"
        versions = [each.version for each in client.get_inference_statistics("digits").model_stats]
        assert versions == ["1", "3"]
        [one] = client.get_inference_statistics("digits", "3").model_stats
        assert one.inference_stats.success.count == 1
        client.unload_model("cartpole")
        assert states(client)["cartpole", "2"] == "UNAVAILABLE"
        assert {each.name for each in client.get_inference_statistics().model_stats} == {"digits"}
        with pytest.raises(InferenceServerException) as caught:
            client.infer("cartpole", cart())
        assert caught.value.status() == "StatusCode.NOT_FOUND"
        with grpc.insecure_channel(server.address) as channel:
            ready = service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(
                service_pb2.RepositoryIndexRequest(ready=True), timeout=30
            )
        assert {(each.name, each.version) for each in ready.models} == {("digits", "1"), ("digits", "3")}


def test_a_model_that_cannot_be_loaded_says_why_and_says_no_path(repository: Path, running: Any) -> None:
    (repository / "digits" / "3" / "weights.safetensors").unlink()
    config = ServeConfig(repository=repository, model_control="explicit", port=0, drain_s=0)
    with running(config) as server, triton.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("digits")
        assert "INTERNAL" not in caught.value.status()
        [entry] = [
            each for each in client.get_model_repository_index().models if (each.name, each.version) == ("digits", "3")
        ]
        assert entry.state == "UNAVAILABLE"
        for said in (entry.reason, caught.value.message()):
            assert "weights" in said
            assert str(repository) not in said
        with pytest.raises(InferenceServerException, match="unknown model") as caught:
            client.load_model("nobody")
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_only_admins_see_the_text_of_an_error(repository: Path, running: Any, tmp_path: Path) -> None:
    (repository / "digits" / "3" / "weights.safetensors").unlink()
    (repository / "cartpole" / "2" / "model.json").write_text('{"of": "/a secret/place"}')
    tokens = tmp_path / "tokens"
    tokens.write_text(
        "".join(f"{role} {hashlib.sha256(role.encode()).hexdigest()} {role} never\n" for role in ("predict", "admin"))
    )
    tokens.chmod(0o600)
    config = ServeConfig(
        repository=repository, token_file=tokens, version_policy="all", skip_broken=True, port=0, drain_s=0
    )

    def reasons(address: str, role: str) -> dict[tuple[str, str], str]:
        with triton.InferenceServerClient(address) as client:
            index = client.get_model_repository_index(headers={"authorization": f"Bearer {role}"})
        return {(each.name, each.version): each.reason for each in index.models}

    with running(config) as server:
        shown, whole = reasons(server.address, "predict"), reasons(server.address, "admin")
    assert shown.keys() == whole.keys()
    assert "weights" in whole["digits", "3"]
    assert shown["digits", "3"] == "its files cannot be loaded; the server's log says why"
    for version, reason in whole.items():
        if version != ("digits", "3"):
            assert reason == shown[version] or "model.json" in reason
    assert shown["digits", "1"] == ""
    for reason in shown.values():
        assert "/" not in reason
        assert "safetensors" not in reason


def test_a_caller_brings_no_files_and_no_configuration(
    served: Any, client: triton.InferenceServerClient, refused: Any
) -> None:
    with pytest.raises(InferenceServerException, match=r"'file:1/model\.json'"):
        client.load_model("digits", config="{}", files={"file:1/model.json": b"{}"})
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("digits")
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"
    with (
        grpc.insecure_channel(served.address) as channel,
        refused(errors.InvalidRequestError, field="repository_name", description="'other'"),
    ):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(
            service_pb2.RepositoryIndexRequest(repository_name="other"), timeout=30
        )
