from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torso import errors
from torso.nets import InputSpec, MLPSpec, NetworkSpec, Predictor, ScalarHeadSpec, build_network, save_model
from torso.serve import AsyncClient, Client, ServeConfig, TensorSpec, create_server
from torso.serve.client.operations import coerce_to_spec
from torso.space_spec import SpaceSpec


def test_a_client_imports_no_framework() -> None:
    code = (
        "import sys, json; from torso.serve import AsyncClient, Client; Client('127.0.0.1:1').close();"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = set(json.loads(done.stdout))
    assert {"grpc", "numpy", "torso"} <= imported
    heavy = {"torch", "onnxruntime", "onnx", "cv2", "PIL", "gymnasium", "sklearn", "safetensors", "uvloop"}
    assert not imported & heavy


def test_every_public_name_is_there() -> None:
    import torso.serve

    assert [name for name in torso.serve.__all__ if getattr(torso.serve, name).__name__ != name] == []
    assert set(torso.serve.__all__) <= set(dir(torso.serve))
    with pytest.raises(AttributeError, match="no attribute 'Server2'"):
        _ = torso.serve.Server2


def test_a_client_brings_inputs_into_form(models: Any, served: Any) -> None:
    predictor = Predictor.load(models.digits)
    scans = np.random.default_rng(2).integers(0, 17, size=(5, 8, 8))
    expected = predictor.classify(scans.astype(np.uint8)).indices
    with Client(served.address) as client:
        for inputs in (
            scans,
            scans.tolist(),
            scans.astype(float),
            scans.reshape(5, 64),
            np.asfortranarray(scans),
        ):
            assert np.array_equal(client.classify("digits", inputs).indices, expected)
        assert np.array_equal(client.classify("digits", scans[0]).indices, expected[:1])
        one = client.act("cartpole", [0.1, 0.2, 0.3, 0.4])
        assert one.actions.shape == (1,)
        assert one.actions.dtype == np.int64
        assert one.values.dtype == np.float32
        assert one.state == ()


@pytest.mark.parametrize("method", ["classify", "act"])
def test_what_does_not_fit_is_for_the_server_to_say(served: Any, method: str) -> None:
    model = {"classify": "digits", "act": "frames"}[method]
    shape = {"classify": (1, 8, 8), "act": (1, 4, 84, 84)}[method]
    with Client(served.address) as client:
        for inputs in (np.full(shape, 0.5), np.full(shape, 256), np.full(shape, -1), np.full(shape, np.nan)):
            with pytest.raises(errors.InvalidRequestError, match=r"\.dtype must be uint8") as caught:
                getattr(client, method)(model, inputs)
            assert caught.value.violations[0][0].endswith(".dtype")
        with pytest.raises(errors.InvalidRequestError, match="shape"):
            getattr(client, method)(model, np.zeros(shape[1:-1]))


def test_what_no_request_can_carry_is_an_input_error(served: Any) -> None:
    with Client(served.address) as client:
        with pytest.raises(errors.InputError, match="a ragged one"):
            client.classify("digits", [[1, 2], [3]])
        with pytest.raises(errors.InputError, match="must be an array of one of bool"):
            client.classify("digits", [["a"]])
        with pytest.raises(errors.InputError, match="a list of files' bytes"):
            client.classify_images("digits", b"one file")  # type: ignore[arg-type]
        with pytest.raises(errors.InputError, match="top_k must be a 32-bit number"):
            client.classify("digits", np.zeros((8, 8)), top_k=2**40)
        with pytest.raises(errors.InvalidRequestError, match="top_k must be at least 1, got 0"):
            client.classify("digits", np.zeros((8, 8)), top_k=0)
        with pytest.raises(errors.InvalidRequestError, match="not recurrent"):
            client.act("cartpole", np.zeros(4), state=[np.zeros((1, 8), np.float32)])


def test_models_are_described_as_plain_data(served: Any) -> None:
    with Client(served.address) as client:
        assert [(model.name, model.kind) for model in client.list_models()] == [
            ("cartpole", "policy"),
            ("digits", "classifier"),
            ("frames", "policy"),
            ("plain", "classifier"),
        ]
        digits = client.get_model("digits")
    assert digits.inputs == (TensorSpec(name="tensor", dtype="uint8", shape=(8, 8)),)
    assert digits.outputs == (TensorSpec(name="probabilities", dtype="float32", shape=(10,)),)
    assert digits.image is not None
    assert (digits.image.channels, digits.image.max_value) == (1, 16.0)
    assert digits.provenance["made_by"] == "a test"
    assert digits.labels == tuple("0123456789")


def test_health_is_known_by_name(served: Any) -> None:
    with Client(served.address) as client:
        client.wait_ready(5)
        assert client.healthy()
        assert client.healthy("digits")
        assert client.healthy("torso.v1.PredictionService")
        assert not client.healthy("nobody")


def test_an_unknown_model_is_a_typed_error(served: Any) -> None:
    with Client(served.address) as client:
        for ask in (client.classify, client.act):
            with pytest.raises(errors.UnknownModelError, match="unknown model 'nobody': served are cartpole"):
                ask("nobody", [1])
        with pytest.raises(errors.UnknownModelError):
            client.classify_images("nobody", [])


def test_a_version_can_be_named(served: Any) -> None:
    with Client(served.address) as client:
        assert client.get_model("cartpole", version="1").version == "1"
        assert client.act("cartpole", [0, 0, 0, 0], version="1").version == "1"
        assert client.classify("digits", np.zeros((8, 8)), version="1").version == "1"
        for ask in (
            lambda: client.get_model("cartpole", version="99"),
            lambda: client.act("cartpole", [0, 0, 0, 0], version="99"),
            lambda: client.classify("digits", np.zeros((8, 8)), version="99"),
            lambda: client.classify_images("digits", [], version="99"),
        ):
            with pytest.raises(errors.UnknownModelError, match="99"):
                ask()


def test_nobody_there_is_unavailable() -> None:
    with Client("127.0.0.1:1", timeout_s=5) as client:
        with pytest.raises(errors.UnavailableError, match=r"no answer from 127\.0\.0\.1:1") as caught:
            client.list_models()
        assert caught.value.status == "UNAVAILABLE"
        assert not client.healthy()
        with pytest.raises(errors.UnavailableError, match=r"not ready within 0\.2 s: no answer"):
            client.wait_ready(0.2)
    with pytest.raises(errors.ConfigError, match="timeout_s"):
        Client("127.0.0.1:1", timeout_s=0)


def test_a_client_finds_a_server_that_comes_later(config: Any, running: Any) -> None:
    with running(config()) as first:
        port = first.server.port
    with Client(f"127.0.0.1:{port}") as client:
        assert not client.healthy()
        started = time.monotonic()
        with running(config(port=port)):
            client.wait_ready(30)
            assert len(client.list_models()) == 2
        assert time.monotonic() - started < 30


def test_calls_fit_a_model_that_replaced_another(models: Any, config: Any, running: Any) -> None:
    with running(config(f"m={models.plain}")) as first, Client(first.address) as client:
        port = first.server.port
        assert client.classify("m", [0, 0, 0]).labels[0][0] in ("no", "yes")
        first.run(first.server.stop())
        with running(config(f"m={models.digits}", port=port)) as second:
            client.wait_ready(30)
            assert client.classify("m", np.zeros((8, 8))).indices.shape == (1, 1)  # floats would fit the old model
            with pytest.raises(errors.InvalidRequestError, match=r"must be uint8 \[batch, 8, 8\], got \[3\]"):
                client.classify("m", np.zeros(3, np.uint8))
            with pytest.raises(errors.InputError, match="ragged"):
                client.classify("m", [[1], [1, 2]])
            second.run(second.server.stop())
        with running(config(f"m={models.frames}", port=port)) as third:
            client.wait_ready(30)
            with pytest.raises(errors.WrongKindError, match="is a policy, not a classifier; use Act"):
                client.classify("m", np.zeros((8, 8)))
            assert client.act("m", np.zeros((4, 84, 84), int)).actions.shape == (1,)
            third.run(third.server.stop())
        with running(config(f"other={models.frames}", port=port)):
            client.wait_ready(30)
            with pytest.raises(errors.UnknownModelError, match="unknown model 'm'"):
                client.act("m", np.zeros((4, 84, 84)))


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[int], Path]:
    """``lake(start)`` saves a policy of Discrete(3, start): of equal size, and 0 is another number each time."""

    def save(start: int) -> Path:
        space = SpaceSpec(kind="discrete", sizes=(3,), starts=(start,))
        spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=2))
        network = build_network(spec, torch.Generator().manual_seed(0))
        return save_model(tmp_path / "saved" / f"from{start}", network, kind="policy", observation_space=space)

    return save


def test_a_new_version_with_other_numbers_of_one_size_is_noticed(
    lake: Callable[[int], Path], folder: Path, poll: Any, running: Any
) -> None:
    (folder / "m").mkdir()
    (folder / "m" / "1").symlink_to(lake(0))
    with running(poll(port=0)) as server, Client(server.address) as client:
        first = client.act("m", [0, 1])
        (folder / "m" / "2").symlink_to(lake(-1))
        server.run(server.server.control.reconcile())
        second = client.act("m", [0, 1])
        assert (first.version, second.version) == ("1", "2")
        expected = Predictor.load(lake(-1)).run(np.eye(3, dtype=np.float32)[1:])
        np.testing.assert_allclose(second.values, expected, rtol=1e-5)
        with pytest.raises(errors.InputError, match="whole numbers from -1 to 1"):
            client.act("m", 2)


def test_the_async_client_does_the_same(models: Any, config: Any) -> None:
    predictor = Predictor.load(models.digits)
    scans = np.random.default_rng(3).integers(0, 17, size=(4, 8, 8)).astype(np.uint8)

    async def scenario(settings: ServeConfig) -> None:
        async with await create_server(settings) as server, AsyncClient(server.address) as client:
            await client.wait_ready()
            assert await client.healthy("digits")
            assert not await client.healthy("nobody")
            answer = await client.classify("digits", scans.tolist(), top_k=2)
            assert np.array_equal(answer.indices, predictor.classify(scans, top_k=2).indices)
            assert (await client.act("cartpole", [0, 0, 0, 0])).actions.shape == (1,)
            assert [model.name for model in await client.list_models()] == ["cartpole", "digits"]
            assert (await client.get_model("cartpole")).kind == "policy"
            with pytest.raises(errors.WrongKindError):
                await client.act("digits", scans)
            with pytest.raises(errors.InvalidRequestError) as caught:
                await client.classify_images("digits", [b"no image"])
            assert caught.value.violations[0][0] == "images.encoded[0]"

    asyncio.run(scenario(config()))


def test_a_stream_goes_on_with_a_model_that_takes_other_observations(
    models: Any, lake: Callable[[int], Path], folder: Path, poll: Any, running: Any
) -> None:
    (folder / "m").mkdir()

    def replace(server: Any, version: str, model: Path) -> None:
        (folder / "m" / version).symlink_to(model)
        server.run(server.server.control.reconcile())

    async def awaited(server: Any) -> None:
        async with AsyncClient(server.address) as client, client.act_stream("m") as stream:
            assert (await stream.act(6, start=True)).version == "2"
            await asyncio.to_thread(replace, server, "3", models.frames)
            assert (await stream.act(np.zeros((4, 84, 84), int), start=True)).version == "3"
            with pytest.raises(errors.InvalidRequestError, match="shape"):
                await stream.act(6)

    (folder / "m" / "1").symlink_to(models.cartpole)
    with running(poll(port=0)) as server:
        with Client(server.address) as client, client.act_stream("m") as stream:
            assert stream.act([0, 0, 0, 0], start=True).version == "1"
            replace(server, "2", lake(5))
            assert stream.act(6, start=True).version == "2"
            with pytest.raises(errors.InputError, match="whole numbers from 5 to 7"):
                stream.act(0, start=True)
        asyncio.run(awaited(server))


@pytest.mark.parametrize(
    ("array", "spec", "shape", "dtype"),
    [
        (np.zeros((2, 3)), ((3,), "float32"), (2, 3), "float32"),
        (np.zeros(3), ((3,), "float32"), (1, 3), "float32"),
        (np.zeros((2, 6)), ((2, 3), "float32"), (2, 2, 3), "float32"),
        (np.zeros((2, 6)), ((2, 6), "float32"), (1, 2, 6), "float32"),
        (np.zeros((2, 5)), ((2, 3), "float32"), (2, 5), "float32"),
        (np.array([[1, 255]]), ((2,), "uint8"), (1, 2), "uint8"),
        (np.array([[1, 256]]), ((2,), "uint8"), (1, 2), "int64"),
        (np.array([[1.5, 2]]), ((2,), "int32"), (1, 2), "float64"),
        (np.array([[True, False]]), ((2,), "float32"), (1, 2), "float32"),
        (np.array([[1.0, np.inf]]), ((2,), "int64"), (1, 2), "float64"),
        (np.array([5]), ((), "int64"), (1,), "int64"),
        (np.array(5), ((), "int64"), (1,), "int64"),
    ],
)
def test_fit_changes_what_it_can_without_loss(array: Any, spec: Any, shape: Any, dtype: str) -> None:
    fitted = coerce_to_spec(array, TensorSpec(name="x", shape=spec[0], dtype=spec[1]))
    assert fitted.shape == shape
    assert fitted.dtype.name == dtype
    assert np.array_equal(fitted.ravel(), array.ravel())
