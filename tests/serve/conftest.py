"""Fixtures: real models, real servers on free ports, and a backend that can be made to wait."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import torch

from torso.errors import ServiceError
from torso.nets import (
    Backend,
    ImageSpec,
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    net_spec,
    save_model,
)
from torso.nets.prediction.backend import Outputs
from torso.proto import prediction_pb2
from torso.proto.prediction_pb2_grpc import PredictionServiceStub
from torso.serve import ServeConfig, Server, create_server
from torso.serve.services.request_handler import RequestHandler
from torso.serve.wire.status import from_wire

sys.path.append(str(Path(__file__).parent))  # for tests, and for workers, that import recurrent_torso


@dataclass(frozen=True)
class Models:
    digits: Path  # a classifier of 8x8 scans, an MLP; takes image files
    cartpole: Path  # a policy on 4 floats
    frames: Path  # a policy on 4x84x84 bytes, the Nature network
    plain: Path  # a classifier of 3 floats


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    image = ImageSpec(channels=1, height=8, width=8, max_value=16.0, centring="box")
    digits = NetworkSpec(
        input=InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16, image=image),
        torso=MLPSpec(hidden=(32,)),
        head=LogitsHeadSpec(num_classes=10),
    )
    cartpole = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(32,)), head=ScalarHeadSpec(num_actions=2))
    pixels = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    frames = NetworkSpec(input=pixels, torso=net_spec("nature", pixels), head=ScalarHeadSpec(num_actions=6))
    plain = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=()), head=LogitsHeadSpec(num_classes=2))
    return Models(
        digits=save_model(
            root / "digits",
            build_network(digits, generator),
            kind="classifier",
            labels=tuple(range(10)),
            provenance={"made_by": "a test", "seed": 0},
        ),
        cartpole=save_model(
            root / "cartpole", build_network(cartpole, generator), kind="policy", provenance={"env_id": "CartPole-v1"}
        ),
        frames=save_model(root / "frames", build_network(frames, generator), kind="policy", action_start=1),
        plain=save_model(root / "plain", build_network(plain, generator), kind="classifier", labels=("no", "yes")),
    )


@pytest.fixture
def config(models: Models) -> Callable[..., ServeConfig]:
    """A configuration on a free port, of both small models unless told otherwise."""

    def make(*directories: Path | str, **settings: Any) -> ServeConfig:
        chosen = directories or (models.digits, models.cartpole)
        return ServeConfig(
            **{"models": tuple(map(str, chosen)), "port": 0, "drain_s": 0.0, "finish_s": 5.0, **settings}
        )

    return make


@dataclass
class Gate:
    """Wraps the real backends: once ``closed``, forwards wait until `open`."""

    closed: bool = False
    entered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    batches: list[int] = field(default_factory=list)  # rows of each forward since it closed

    def wrap(self, _name: str, backend: Backend) -> Backend:
        return _GatedBackend(self, backend)

    def close(self) -> None:
        self.closed = True

    def open(self) -> None:
        self.released.set()


class _GatedBackend:
    inline = False  # it waits, which the event loop must not

    def __init__(self, gate: Gate, backend: Backend) -> None:
        self.name = backend.name
        self.initial_state = getattr(backend, "initial_state", ())
        self._gate = gate
        self._backend = backend

    def run(self, inputs: np.ndarray, *state: np.ndarray) -> Outputs:
        if self._gate.closed:
            self._gate.batches.append(len(inputs))
            self._gate.entered.set()
            assert self._gate.released.wait(30), "nobody opened the gate"
        return self._backend.run(inputs, *state)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()  # or a failed test would hang in its server's end


@dataclass
class Running:
    """A server on an event loop in another thread."""

    server: Server
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        return self.server.address

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)


@contextlib.contextmanager
def _running(config: ServeConfig, wrap_backend: Any = None) -> Iterator[Running]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(create_server(config, wrap_backend), loop).result(60)
        running = Running(server, loop)
        try:
            yield running
        finally:
            running.run(server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def running() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """``with running(config, wrap_backend) as server:`` for clients that block."""
    return _running


@pytest.fixture(scope="module")
def served(models: Models) -> Iterator[Running]:
    """One server of all models for a module's tests that change nothing."""
    directories = tuple(map(str, (models.digits, models.cartpole, models.frames, models.plain)))
    with _running(ServeConfig(models=directories, port=0)) as running:
        yield running


@pytest.fixture
def stub(served: Running) -> Iterator[PredictionServiceStub]:
    """The service without torso's client between."""
    with grpc.insecure_channel(served.address) as channel:
        yield PredictionServiceStub(channel)


@contextlib.contextmanager
def _refused(error_class: type[ServiceError], **violation: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = from_wire(caught.value, "here")
    assert type(error) is error_class, error
    assert "Traceback" not in str(caught.value)
    if violation:
        [(field, description)] = error.violations
        assert field == violation["field"]
        assert violation["description"] in description


@pytest.fixture
def refused() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """``with refused(error_class, field=..., description=...):`` around a call that fails so."""
    return _refused


@contextlib.asynccontextmanager
async def _behind(handler: RequestHandler, *answers: Callable[..., Any]) -> AsyncIterator[grpc.aio.Channel]:
    methods = {
        answer.__name__: handler.stream(answer)
        if inspect.isasyncgenfunction(answer)
        else handler.unary(answer, prediction_pb2.GetModelRequest)
        for answer in answers
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Door", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            channel.port = port
            yield channel
    finally:
        await server.stop(5)
        handler.shutdown()


@pytest.fixture
def behind() -> Callable[..., contextlib.AbstractAsyncContextManager[grpc.aio.Channel]]:
    """``async with behind(handler, method, ...) as channel:`` methods of a test, at ``/test.Door/NAME``.

    A coroutine function answers a `GetModelRequest`, an async generator function a stream of bytes. The channel's
    ``port`` is where they are.
    """
    return _behind


@pytest.fixture
def publish() -> Callable[[Path, float], Path]:
    """``publish(directory, answer)`` saves a policy of 4 floats that values its first action so, and the other at 0."""

    def save(directory: Path, answer: float) -> Path:
        spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=()), head=ScalarHeadSpec(num_actions=2))
        network = build_network(spec)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            dict(network.named_parameters())["head.linear.bias"][0] = answer
        return save_model(directory, network, kind="policy", onnx=False)

    return save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    return tmp_path / "repository"


@pytest.fixture
def settings(folder: Path) -> Callable[..., ServeConfig]:
    def make(*models: Path, **others: Any) -> ServeConfig:
        return ServeConfig(models=tuple(map(str, models)), **{"repository": folder, "backend": "torch", **others})

    return make


@pytest.fixture
def poll(settings: Callable[..., ServeConfig]) -> Callable[..., ServeConfig]:
    """Polling, so rarely that only `reconcile` scans."""
    return lambda *models, **others: settings(*models, **{"model_control": "poll", "poll_s": 3600.0, **others})


@pytest.fixture
def explicit(settings: Callable[..., ServeConfig]) -> Callable[..., ServeConfig]:
    return lambda *models, **others: settings(*models, model_control="explicit", **others)
