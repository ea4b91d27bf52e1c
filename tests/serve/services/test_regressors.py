"""Regressors: served by the Open Inference Protocol, and refused with its name elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton

from torso.cli import main
from torso.errors import InvalidRequestError, WrongKindError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, Predictor, RegressionHeadSpec, build_network, save_model
from torso.proto import oip_pb2 as oip
from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve import Client, ServeConfig
from torso.serve.wire.tensors import array_to_tensor

ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(8,)), head=RegressionHeadSpec(num_targets=2))
    network = build_network(spec, torch.Generator().manual_seed(0))
    return save_model(tmp_path_factory.mktemp("models") / "prices", network, kind="regressor")


@pytest.fixture(scope="module")
def server(regressor: Path, running: Any) -> Iterator[Any]:
    with running(ServeConfig(models=(str(regressor),), port=0)) as running_server:
        yield running_server


def test_the_stock_client_gets_what_the_predictor_estimates(regressor: Path, server: Any) -> None:
    expected = Predictor.load(regressor).regress(ROWS)
    with triton.InferenceServerClient(server.address) as client:
        metadata = client.get_model_metadata("prices", as_json=True)
        assert metadata["inputs"] == [{"name": "tensor", "datatype": "FP32", "shape": ["-1", "4"]}]
        assert metadata["outputs"] == [{"name": "predictions", "datatype": "FP32", "shape": ["-1", "2"]}]
        config = client.get_model_config("prices", as_json=True)["config"]
        assert config["output"] == [{"name": "predictions", "data_type": "TYPE_FP32", "dims": ["2"]}]
        rows = triton.InferInput("tensor", list(ROWS.shape), "FP32")
        rows.set_data_from_numpy(ROWS)
        for outputs in (None, [triton.InferRequestedOutput("predictions")]):
            answer = client.infer("prices", [rows], outputs=outputs)
            np.testing.assert_allclose(answer.as_numpy("predictions"), expected, rtol=1e-5, atol=1e-6)
            assert len(answer.get_response().outputs) == 1
        for output, reason in (
            (triton.InferRequestedOutput("predictions", class_count=1), "which a regressor does not do"),
            (triton.InferRequestedOutput("values"), "one of predictions"),
        ):
            with pytest.raises(triton.InferenceServerException, match=reason):
                client.infer("prices", [rows], outputs=[output])


def test_a_regressor_is_listed_and_described(server: Any) -> None:
    with Client(server.address) as client:
        [summary] = client.list_models()
        info = client.get_model("prices")
    assert (summary.name, summary.kind, info.kind) == ("prices", "regressor", "regressor")
    assert [(spec.name, spec.shape) for spec in (*info.inputs, *info.outputs)] == [
        ("tensor", (4,)),
        ("predictions", (2,)),
    ]
    assert (info.labels, info.interface, info.action_start) == ((), None, None)


def test_methods_without_estimates_name_the_one_that_has_them(server: Any) -> None:
    tensor = array_to_tensor(ROWS)
    with grpc.insecure_channel(server.address) as channel:
        stub = PredictionServiceStub(channel)
        for call in (
            lambda: stub.Classify(pb.ClassifyRequest(model="prices", tensor=tensor)),
            lambda: stub.Act(pb.ActRequest(model="prices", observations=tensor)),
            lambda: list(stub.ActStream(iter([pb.ActStreamRequest(model="prices", start=True)]))),
        ):
            with pytest.raises(grpc.RpcError, match="ModelInfer") as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with Client(server.address) as client:
        for call in (lambda: client.classify("prices", ROWS), lambda: client.act("prices", ROWS)):
            with pytest.raises(WrongKindError, match=r"is a regressor, not a \w+; use the Open Inference Protocol's"):
                call()


def test_the_command_line_says_what_a_regressor_is_for(
    regressor: Path, server: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, ROWS)
    served = ("--model", "prices", "--address", server.address)
    for command in (("classify", str(rows)), ("act", "[0, 0, 0, 0]")):
        assert main([*command, "--model", str(regressor)]) == 2
        said = capsys.readouterr().err
        assert "got a regressor; use it with torso evaluate, Predictor.regress, or a server's V2 ModelInfer" in said
        assert main([*command, *served]) == 2
        assert "use the Open Inference Protocol's ModelInfer" in capsys.readouterr().err
    load = ("--in-flight", "1", "--duration-s", "0.2", "--warmup-s", "0", "--json")
    assert main(["bench-serve", *served, *load]) == 2
    assert "protocol must be v2 for a regressor" in capsys.readouterr().err
    assert main(["bench-serve", *served, *load, "--protocol", "v2"]) == 0
    assert json.loads(capsys.readouterr().out)["loads"][0]["errors"] == {}


def test_a_regressor_computes_typed_contents_and_refuses_other_shapes(server: Any, refused: Any) -> None:
    request = oip.ModelInferRequest(model_name="prices")
    request.inputs.add(name="tensor", datatype="FP32", shape=[1, 3])
    request.inputs[0].contents.fp32_contents.extend([0, 0, 0])
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            oip.ModelInferRequest.SerializeToString,
            oip.ModelInferResponse.FromString,
        )
        with refused(InvalidRequestError, field="inputs[0].shape", description="[batch, 4]"):
            infer(request)
        request.inputs[0].shape[1] = 4
        request.inputs[0].contents.fp32_contents.append(0)
        assert infer(request).outputs[0].name == "predictions"
