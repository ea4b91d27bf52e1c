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

from torso.cli import main
from torso.errors import InputError, InvalidRequestError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, Predictor, ScalarHeadSpec, build_network, save_model
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
SPACES = {
    "lake": (LAKE, "int64"),
    "places": (PLACES, "int64"),
    "number": (NUMBER, "float32"),
    "found": (FOUND, "float64"),
}
BATCHES: dict[str, Any] = {
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
