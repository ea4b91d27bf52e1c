"""Correct answers over the wire: equal to local ones, as DESIGN.md defines equal."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torso.nets import (
    Calibration,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    Predictor,
    SigmoidHeadSpec,
    StepHeadSpec,
    build_network,
    save_model,
)
from torso.nets.specs.calibration import PlattScaling, TemperatureScaling
from torso.proto import prediction_pb2 as pb
from torso.serve import Client, ServeConfig
from torso.serve.backends.onnx_backend import OnnxBackend, OnnxClassifier
from torso.serve.backends.selection import equal_readouts, probe_batch
from torso.serve.wire.tensors import array_to_tensor, tensor_to_array


@pytest.mark.parametrize("rows", [1, 64])
def test_served_classes_equal_local_ones(models: Any, served: Any, rows: int) -> None:
    torch_predictor = Predictor.load(models.digits)
    same_backend = Predictor(torch_predictor.card, OnnxClassifier((models.digits / "model.onnx").read_bytes()))
    inputs = probe_batch(torch_predictor.input, rows)
    with Client(served.address) as client:
        answer = client.classify("digits", inputs, top_k=10)
        assert client.get_model("digits").backend == "onnx"
    local = same_backend.classify(inputs, top_k=10)
    assert np.array_equal(answer.indices, local.indices)
    assert np.array_equal(answer.probabilities, local.probabilities)
    assert answer.probabilities.dtype == np.float32
    assert answer.labels == tuple(tuple(map(str, row)) for row in local.labels)
    by_torch = torch_predictor.probabilities(torch_predictor.run(inputs))
    in_order = np.take_along_axis(answer.probabilities, answer.indices.argsort(axis=1), axis=1)
    assert equal_readouts(in_order, by_torch)


@pytest.mark.parametrize("rows", [1, 64])
@pytest.mark.parametrize("name", ["cartpole", "frames"])
def test_served_actions_equal_local_ones(models: Any, served: Any, name: str, rows: int) -> None:
    directory = getattr(models, name)
    torch_predictor = Predictor.load(directory)
    same_backend = Predictor(torch_predictor.card, OnnxBackend(directory / "model.onnx"))
    observations = probe_batch(torch_predictor.input, rows)
    with Client(served.address) as client:
        answer = client.act(name, observations)
    assert np.array_equal(answer.actions, same_backend.act(observations)[0])
    assert np.array_equal(answer.values, same_backend.run(observations))
    assert equal_readouts(answer.values, torch_predictor.run(observations))
    assert answer.actions.min() >= torch_predictor.card.action_start


@pytest.mark.parametrize("rows", [1, 64])
def test_the_torch_backend_serves_its_own_bits(
    models: Any, config: Callable[..., ServeConfig], running: Any, rows: int
) -> None:
    predictor = Predictor.load(models.cartpole)
    observations = probe_batch(predictor.input, rows)
    with running(config(models.cartpole, backend="torch")) as server, Client(server.address) as client:
        assert client.get_model("cartpole").backend == "torch"
        assert np.array_equal(client.act("cartpole", observations).values, predictor.run(observations))


@pytest.mark.parametrize(
    ("head", "calibration"),
    [
        (SigmoidHeadSpec(), PlattScaling(num_classes=2, slopes=(0.5,), intercepts=(-1.0,))),
        (LogitsHeadSpec(num_classes=2), TemperatureScaling(num_classes=2, temperature=4.0)),
        (StepHeadSpec(), None),
    ],
)
def test_probabilities_are_served_as_the_model_calibrates_them(
    tmp_path: Path, config: Callable[..., ServeConfig], running: Any, head: Any, calibration: Calibration | None
) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=()), head=head)
    network = build_network(spec, torch.Generator().manual_seed(0))
    labels = ("no", "yes")
    model = save_model(
        tmp_path / "model", network, kind="classifier", labels=labels, calibration=calibration, onnx=False
    )
    predictor = Predictor.load(model)
    rows = probe_batch(predictor.input, 32)
    with running(config(model, backend="torch")) as server, Client(server.address) as client:
        answer = client.classify("model", rows, top_k=2)
    readout = predictor.run(rows)
    said = np.eye(2)[(readout[:, 1] > 0).astype(int)]
    expected = said if calibration is None else calibration.apply(readout)
    served = np.take_along_axis(answer.probabilities, answer.indices.argsort(axis=1), axis=1)
    np.testing.assert_array_equal(served, expected.astype(np.float32))
    assert [row[0] for row in answer.labels] == [labels[best] for best in expected.argmax(axis=1)]


def test_a_request_of_more_rows_than_a_batch_is_answered_whole(models: Any, served: Any) -> None:
    predictor = Predictor.load(models.digits)
    inputs = probe_batch(predictor.input, 1797)
    with Client(served.address) as client:
        answer = client.classify("digits", inputs)
    assert answer.indices.shape == (1797, 1)
    assert np.array_equal(answer.indices, predictor.classify(inputs).indices)


def test_many_threads_get_their_own_rows(models: Any, served: Any) -> None:
    predictor = Predictor.load(models.frames)
    rows = probe_batch(predictor.input, 40)
    expected = predictor.run(rows)
    with Client(served.address) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda row: client.act("frames", row), rows))
    assert equal_readouts(np.concatenate([answer.values for answer in answers]), expected)


def test_top_k_is_one_unless_asked_and_all_at_most(models: Any, stub: Any) -> None:
    tensor = array_to_tensor(np.zeros((2, 8, 8), dtype=np.uint8))
    assert [len(row.labels) for row in stub.Classify(pb.ClassifyRequest(model="digits", tensor=tensor)).rows] == [1, 1]
    everything = stub.Classify(pb.ClassifyRequest(model="digits", tensor=tensor, top_k=2**31 - 1)).rows[0]
    assert len(everything.labels) == 10
    assert list(everything.probabilities) == sorted(everything.probabilities, reverse=True)
    assert sum(everything.probabilities) == pytest.approx(1)


def test_values_are_a_tensor_of_float32(stub: Any) -> None:
    response = stub.Act(pb.ActRequest(model="cartpole", observations=array_to_tensor(np.zeros((3, 4), np.float32))))
    assert tensor_to_array(response.values).shape == (3, 2)
    assert response.values.dtype == "float32"
    assert response.version == "1"
    assert not response.state


def test_models_are_listed_and_described(stub: Any) -> None:
    listed = stub.ListModels(pb.ListModelsRequest()).models
    assert [(model.name, model.version, model.kind) for model in listed] == [
        ("cartpole", "1", pb.MODEL_KIND_POLICY),
        ("digits", "1", pb.MODEL_KIND_CLASSIFIER),
        ("frames", "1", pb.MODEL_KIND_POLICY),
        ("plain", "1", pb.MODEL_KIND_CLASSIFIER),
    ]
    digits = stub.GetModel(pb.GetModelRequest(model="digits", version="1"))
    assert digits.inputs == [pb.TensorInfo(name="tensor", dtype="uint8", shape=[-1, 8, 8])]
    assert digits.outputs == [pb.TensorInfo(name="probabilities", dtype="float32", shape=[-1, 10])]
    assert list(digits.labels) == list("0123456789")
    assert (digits.image.height, digits.image.max_value, digits.image.centring) == (8, 16.0, "box")
    assert dict(digits.provenance) == {"made_by": "a test", "seed": "0"}
    cartpole = stub.GetModel(pb.GetModelRequest(model="cartpole"))
    assert not cartpole.HasField("image")
    assert not cartpole.labels
    assert cartpole.outputs == [pb.TensorInfo(name="values", dtype="float32", shape=[-1, 2])]
