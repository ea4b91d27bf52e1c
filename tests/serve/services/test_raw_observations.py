"""Observations as envs give them, of models whose observations were flattened: in requests, streams and clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from tritonclient.utils import np_to_triton_dtype

from torso.cli import main
from torso.errors import InputError, InvalidRequestError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, Predictor, ScalarHeadSpec, build_network, save_model
from torso.proto import oip_pb2 as oip
from torso.proto import prediction_pb2 as pb
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve import AsyncClient, Client, ServeConfig
from torso.serve.wire.tensors import array_to_tensor
from torso.space_spec import SpaceSpec

LAKE = SpaceSpec(kind="discrete", sizes=(6,), starts=(2,))
PLACES = SpaceSpec(kind="discrete", shape=(2,), sizes=(2, 3), starts=(0, 0))
NUMBER = SpaceSpec(kind="numbers", dtype="float32")
FOUND = SpaceSpec(
    kind="dict", keys=("at", "seen"), parts=(LAKE, SpaceSpec(kind="numbers", shape=(2,), dtype="float32"))
)
HAND = SpaceSpec(kind="tuple", parts=(LAKE, SpaceSpec(kind="discrete", sizes=(2,), starts=(0,))))
ONLY = SpaceSpec(kind="discrete", sizes=(1,), starts=(3,))
SPACES = {
    "hand": (HAND, "uint8"),
    "only": (ONLY, "float32"),
    "lake": (LAKE, "int64"),
    "places": (PLACES, "int64"),
    "number": (NUMBER, "float32"),
    "found": (FOUND, "float64"),
}
BATCHES: dict[str, Any] = {
    "hand": np.array([[2, 0], [7, 1], [3, 1]]),
    "only": np.array([3, 3, 3]),
    "lake": np.array([2, 7, 5]),
    "places": np.array([[0, 2], [1, 0], [1, 1]]),
    "number": np.array([0.5, -1.0, 3.0], np.float32),
    "found": {"at": np.array([3, 2, 7]), "seen": np.array([[0.5, 1.0], [0.0, -2.0], [1.0, 1.0]], np.float32)},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("raw")
    saved = {}
    for name, (space, dtype) in SPACES.items():
        network_input = InputSpec(shape=(space.size,), dtype=dtype)
        spec = NetworkSpec(input=network_input, torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=3))
        network = build_network(spec, torch.Generator().manual_seed(1))
        saved[name] = save_model(root / name, network, kind="policy", action_start=4, observation_space=space)
    return saved


@pytest.fixture(scope="module")
def address(models: dict[str, Path], running: Any) -> Iterator[str]:
    with running(ServeConfig(models=tuple(map(str, models.values())), port=0)) as server:
        yield server.address


@pytest.mark.parametrize("name", SPACES)
def test_clients_take_what_the_predictor_takes(name: str, models: dict[str, Path], address: str) -> None:
    batch = BATCHES[name]
    predictor = Predictor.load(models[name])
    values = predictor.run(predictor.prepare(batch))
    one = [{key: value[i] for key, value in batch.items()} if isinstance(batch, dict) else batch[i] for i in range(3)]
    with Client(address) as client:
        info = client.get_model(name)
        assert (info.observation_space, info.action_start) == (SPACES[name][0], 4)
        for got in (batch, one, predictor.prepare(batch)):
            answer = client.act(name, got)
            np.testing.assert_allclose(answer.values, values, rtol=1e-4, atol=1e-5)
            assert answer.actions.tolist() == predictor.greedy(values).tolist()
        assert client.act(name, one[0]).actions.tolist() == [answer.actions[0]]
        with client.act_stream(name) as stream:
            for raw, row, action in zip(one, predictor.prepare(batch), answer.actions, strict=True):
                assert stream.act(raw, start=True).action == action
                assert stream.act(row).action == action


@pytest.mark.parametrize("name", ["lake", "places", "number"])
def test_requests_hold_the_spaces_own_arrays(name: str, models: dict[str, Path], address: str) -> None:
    predictor = Predictor.load(models[name])
    expected = predictor.act(BATCHES[name])[0].tolist()
    with grpc.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        request = pb.ActRequest(model=name, observations=array_to_tensor(BATCHES[name]))
        assert list(stub.Act(request).actions) == expected
        requests = [
            pb.ActStreamRequest(model=name, start=True, episode=i, observation=array_to_tensor(observation))
            for i, observation in enumerate(BATCHES[name])
        ]
        for each in requests[1:]:
            each.model = ""
        assert [each.action for each in stub.ActStream(iter(requests))] == expected


def test_what_is_outside_the_space_is_an_invalid_request(address: str, refused: Any) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = PredictionServiceStub(channel)
        for wrong, field in (
            (np.array([1]), "observations"),
            (np.array([2.0]), "observations.dtype"),
            (np.array([[2, 3]]), "observations.shape"),
            (np.zeros(0, np.int64), "observations.shape"),
            (np.int64(3), "observations.shape"),
        ):
            with refused(InvalidRequestError, field=field, description="got"):
                stub.Act(pb.ActRequest(model="lake", observations=array_to_tensor(wrong)))
    with Client(address) as client:
        with pytest.raises(InputError, match="whole numbers from 2 to 7"):
            client.act("lake", 8)
        with pytest.raises(InputError, match="a dict with the keys"):
            client.act("found", {"at": 3})
        with (
            client.act_stream("lake") as stream,
            pytest.raises(InputError, match=r"observation must be one of .*got 2"),
        ):
            stream.act([3, 4], start=True)


# -- the Open Inference Protocol --------------------------------------------------------------------------------------


def infer(address: str, model: str, array: np.ndarray, datatype: str | None = None) -> list[int]:
    rows = triton.InferInput("observations", list(array.shape), datatype or np_to_triton_dtype(array.dtype))
    rows.set_data_from_numpy(array)
    with triton.InferenceServerClient(address) as client:
        return client.infer(model, [rows]).as_numpy("actions").tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["lake", "places", "hand"])
@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8"])
def test_v2_takes_discrete_numbers_of_any_integer_datatype(
    name: str, dtype: str, models: dict[str, Path], address: str
) -> None:
    predictor = Predictor.load(models[name])
    batch = BATCHES[name].astype(dtype)
    expected = predictor.act(BATCHES[name])[0].tolist()
    assert infer(address, name, batch) == expected
    if batch.ndim == 1:
        assert infer(address, name, batch[:, np.newaxis]) == expected
    assert infer(address, name, predictor.prepare(BATCHES[name])) == expected  # as they are flattened, as before


def test_v2_takes_discrete_numbers_as_typed_contents(models: dict[str, Path], address: str) -> None:
    expected = Predictor.load(models["lake"]).act(BATCHES["lake"])[0].tolist()
    with grpc.insecure_channel(address) as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            oip.ModelInferRequest.SerializeToString,
            oip.ModelInferResponse.FromString,
        )
        for datatype, contents in (("INT64", "int64_contents"), ("INT32", "int_contents"), ("UINT8", "uint_contents")):
            request = oip.ModelInferRequest(model_name="lake")
            request.inputs.add(name="observations", datatype=datatype, shape=[3])
            getattr(request.inputs[0].contents, contents).extend([2, 7, 5])
            answer = method(request)
            assert np.frombuffer(answer.raw_output_contents[0], "<i8").tolist() == expected


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("lake", np.array([8]), r"inputs\[0\] must be whole numbers from 2 to 7, as Discrete\(6, start=2\)'s, got 8"),
        ("lake", np.array([-1], np.int8), "whole numbers from 2 to 7"),
        ("lake", np.array([2**64 - 1], np.uint64), "whole numbers from 2 to 7"),
        (
            "lake",
            np.array([2.0], np.float32),
            r"datatype must be INT64, or integers \[batch\] or \[batch, 1\] of Discrete",
        ),
        ("lake", np.array([[2, 3]]), r"shape must be \[batch, 6\], or integers \[batch\] or \[batch, 1\] of Discrete"),
        ("lake", np.zeros(0, np.int64), r"shape must be \[batch, 6\], or integers"),
        ("places", np.array([[0, 3]]), "whole numbers from 0 to 2"),
        ("places", np.array([0, 1]), r"shape must be \[batch, 5\], or integers \[batch, 2\] of MultiDiscrete"),
        ("hand", np.array([[2, 4]]), "whole numbers from 0 to 1"),
        ("only", np.array([[0.0]], np.float32), "must be rows of 1, the only observation of Discrete"),
        ("number", np.array([1]), "datatype must be FP32, got 'INT64'"),
        ("found", np.array([1]), "datatype must be FP64, got 'INT64'"),
    ],
)
def test_v2_refuses_other_numbers(name: str, array: np.ndarray, message: str, address: str) -> None:
    with pytest.raises(triton.InferenceServerException, match=message):
        infer(address, name, array)


def test_v2_takes_the_one_number_of_a_space_and_its_flattened_row(address: str) -> None:
    [action] = infer(address, "only", np.array([3]))
    assert infer(address, "only", np.array([[1.0]], np.float32)) == [action]


def test_v2_describes_the_numbers(address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        parameters = {
            name: {key: json.loads(value.string_value) for key, value in found.config.parameters.items()}
            for name in SPACES
            for found in [client.get_model_config(name)]
        }
        metadata = client.get_model_metadata("lake", as_json=True)
    assert metadata["inputs"] == [{"name": "observations", "datatype": "INT64", "shape": ["-1", "6"]}]
    shapes = {name: found.get("raw_observations", {}).get("shapes") for name, found in parameters.items()}
    assert shapes == {
        **{"lake": [[-1], [-1, 1]], "places": [[-1, 2]], "hand": [[-1, 2]], "only": [[-1]]},
        **{"number": None, "found": None},
    }
    for name, found in parameters.items():
        assert SpaceSpec.from_json(found["observation_space"]) == SPACES[name][0]
    assert {"INT64", "UINT8"} < set(parameters["lake"]["raw_observations"]["datatypes"])


def test_the_async_client_too(models: dict[str, Path], address: str) -> None:
    expected = Predictor.load(models["found"]).act(BATCHES["found"])[0].tolist()

    async def act() -> list[int]:
        async with AsyncClient(address) as client:
            actions: list[int] = (await client.act("found", BATCHES["found"])).actions.tolist()
            return actions

    assert asyncio.run(act()) == expected


def test_on_the_command_line(models: dict[str, Path], address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text, raw in (
        ("lake", "5", 5),
        ("lake", "[5, 2]", [5, 2]),
        ("found", '{"at": 3, "seen": [0.5, 1]}', {"at": 3, "seen": [0.5, 1]}),
        ("found", '[{"at": 3, "seen": [0.5, 1]}]', [{"at": 3, "seen": [0.5, 1]}]),
    ):
        expected = Predictor.load(models[name]).act(raw)[0].tolist()
        for model in (("--model", models[name]), ("--model", name, "--address", address)):
            assert main(["act", text, *map(str, model), "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["actions"] == expected
