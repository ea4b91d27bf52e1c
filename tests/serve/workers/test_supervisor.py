"""Workers behind one port: shared index and counts, changes on all, and replacement of one that dies."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
from http_get import get
from obstinate import FOLDER, publish

from torso.errors import ServerError, ServiceError
from torso.nets import Predictor
from torso.proto import oip_pb2
from torso.serve import AsyncClient, RetryPolicy, ServeConfig, create_server, serve
from torso.serve.workers.supervisor import Supervisor

OIP = "/inference.GRPCInferenceService"
CONNECTIONS = 12  # new ones, which both workers take their share of: that one gets none has odds of 1 in 2048
ROWS = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
PATIENT = RetryPolicy(max_attempts=20)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one model of one version."""
    publish(tmp_path / "repository" / "m" / "1", seed=1)
    return tmp_path / "repository"


@pytest.fixture
def settings(repository: Path) -> Callable[..., ServeConfig]:
    def make(**others: Any) -> ServeConfig:
        return ServeConfig(
            **{
                **{"repository": repository, "port": 0, "workers": 2, "backend": "torch", "drain_s": 0.0},
                **{"finish_s": 30.0, "import_modules": ("obstinate",), "ops_port": 0},
                **others,
            }
        )

    return make


@asynccontextmanager
async def supervised(config: ServeConfig) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(config)
    try:
        await supervisor.start()
        await supervisor.load()
        yield supervisor
    finally:
        await supervisor.stop()


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.02)


async def ask(address: str, method: str, request: Any, response_class: Any) -> Any:
    """Send a request over a new connection."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(
            f"{OIP}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return await call(request, timeout=60)


async def counted(address: str, name: str = "m") -> dict[str, int]:
    """Return V2's statistics of each version's requests that succeeded."""
    request = oip_pb2.ModelStatisticsRequest(name=name)
    response = await ask(address, "ModelStatistics", request, oip_pb2.ModelStatisticsResponse)
    return {stats.version: stats.inference_stats.success.count for stats in response.model_stats}


async def everywhere(address: str, question: Callable[[AsyncClient], Awaitable[Any]]) -> list[Any]:
    """Send requests over many new connections, and return every answer, or error."""
    answers: list[Any] = []
    for _ in range(CONNECTIONS):
        async with AsyncClient(address, retries=RetryPolicy(max_attempts=1)) as client:
            try:
                answers.append(await question(client))
            except ServiceError as error:
                answers.append(error)
    return answers


def test_any_worker_tells_of_all(settings: Callable[..., ServeConfig]) -> None:
    async def scenario() -> None:
        async with supervised(settings()) as supervisor:
            assert len(set(supervisor.pids)) == 2
            assert all(psutil.Process(pid).ppid() == os.getpid() for pid in supervisor.pids)
            answers = await everywhere(supervisor.address, lambda client: client.act("m", ROWS[0]))
            assert [answer.version for answer in answers] == ["1"] * CONNECTIONS
            for _ in range(CONNECTIONS):
                assert await counted(supervisor.address) == {"1": CONNECTIONS}
            alone = [(await worker.snapshot())["m", "1"]["rows"] for worker in supervisor._workers._members.values()]
            assert sum(alone) == CONNECTIONS
            assert all(0 < rows < CONNECTIONS for rows in alone), "one worker got everything: this tested nothing"
            for _ in range(CONNECTIONS):
                index = await ask(
                    supervisor.address,
                    "RepositoryIndex",
                    oip_pb2.RepositoryIndexRequest(),
                    oip_pb2.RepositoryIndexResponse,
                )
                assert [(model.name, model.version, model.state) for model in index.models] == [("m", "1", "READY")]
            status, text, _ = await asyncio.to_thread(get, supervisor.ops_port, "/metrics")
            assert status == 200
            lines = text.splitlines()
            assert f'nv_inference_request_success{{model="m",version="1"}} {CONNECTIONS}.0' in lines
            assert "torso_workers 2.0" in lines
            assert (await asyncio.to_thread(get, supervisor.ops_port, "/readyz"))[0] == 200
            await supervisor.announce_shutdown()
            assert (await asyncio.to_thread(get, supervisor.ops_port, "/readyz"))[0] == 503
            health = await everywhere(supervisor.address, lambda client: client.healthy())
            assert health == [False] * CONNECTIONS
            answers = await everywhere(supervisor.address, lambda client: client.act("m", ROWS[0]))
            assert [answer.version for answer in answers] == ["1"] * CONNECTIONS
            pids = supervisor.pids
            await supervisor.drain()
            assert not any(map(psutil.pid_exists, pids))

    asyncio.run(scenario())


def test_a_worker_that_is_killed_under_load_is_replaced_and_nobody_gets_a_wrong_answer(
    settings: Callable[..., ServeConfig], repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Predictor.load(repository / "m" / "1").run(ROWS)
    stopped = asyncio.Event()
    answered = 0

    async def keep_asking(address: str, seed: int) -> None:
        nonlocal answered
        rng = np.random.default_rng(seed)
        async with AsyncClient(address, retries=PATIENT, timeout_s=120) as client:
            while not stopped.is_set():
                row = rng.integers(len(ROWS))
                result = await client.act("m", ROWS[row])
                np.testing.assert_allclose(result.values[0], expected[row], rtol=1e-4, atol=1e-5)
                answered += 1

    async def keep_counting(supervisor: Supervisor) -> None:
        last = 0
        while not stopped.is_set():
            snapshot = await supervisor._manager.snapshot()
            count = snapshot["m", "1"]["statuses"].get("OK", 0)
            assert count >= last, "the count fell"
            last = count

    async def scenario() -> None:
        async with supervised(settings()) as supervisor:
            tasks = [asyncio.create_task(keep_asking(supervisor.address, seed)) for seed in range(8)]
            tasks.append(asyncio.create_task(keep_counting(supervisor)))
            try:
                for kills in (1, 2):
                    before = answered
                    await until(lambda before=before: answered > before + 50)
                    victim, other = supervisor.pids
                    os.kill(victim, signal.SIGKILL)
                    await until(lambda victim=victim: victim not in supervisor.pids)
                    assert supervisor.pids == [other]
                    await until(lambda: len(supervisor.pids) == 2)
                    assert not set(supervisor.pids) & {victim}
                    assert caplog.text.count("ended: SIGKILL; another takes its place") == kills
                    before = answered
                    await until(lambda before=before: answered > before + 50)
            finally:
                stopped.set()
                await asyncio.gather(*tasks)
            health = await everywhere(supervisor.address, lambda client: client.healthy("m"))
            assert health == [True] * CONNECTIONS
            snapshot = await supervisor._manager.snapshot()
            assert snapshot["m", "1"]["in_flight"] == snapshot["m", "1"]["queued_rows"] == 0

    with caplog.at_level(logging.INFO, "torso"):
        asyncio.run(scenario())


def test_a_change_has_reached_every_worker_when_it_returns(
    settings: Callable[..., ServeConfig], repository: Path
) -> None:
    def load(address: str, name: str) -> Awaitable[Any]:
        request = oip_pb2.RepositoryModelLoadRequest(model_name=name)
        return ask(address, "RepositoryModelLoad", request, oip_pb2.RepositoryModelLoadResponse)

    def unload(address: str, name: str) -> Awaitable[Any]:
        request = oip_pb2.RepositoryModelUnloadRequest(model_name=name)
        return ask(address, "RepositoryModelUnload", request, oip_pb2.RepositoryModelUnloadResponse)

    async def versions(address: str) -> list[str]:
        answers = await everywhere(address, lambda client: client.act("m", ROWS[0]))
        return [getattr(answer, "version", type(answer).__name__) for answer in answers]

    async def scenario() -> None:
        async with supervised(settings(model_control="explicit")) as supervisor:
            address = supervisor.address
            assert await versions(address) == ["UnknownModelError"] * CONNECTIONS
            await load(address, "m")
            assert await versions(address) == ["1"] * CONNECTIONS
            publish(repository / "m" / "2", seed=2)
            assert await versions(address) == ["1"] * CONNECTIONS
            await load(address, "m")
            assert await versions(address) == ["2"] * CONNECTIONS
            await unload(address, "m")
            assert await versions(address) == ["UnknownModelError"] * CONNECTIONS
            health = await everywhere(address, lambda client: client.healthy("m"))
            assert health == [False] * CONNECTIONS
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await load(address, "nobody")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # as the supervisor said it
            await load(address, "m")

            # What kills the process that loads it kills one, and what served goes on.
            publish(repository / "m" / "3", seed=3, deadly=True)
            pids = set(supervisor.pids)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await load(address, "m")
            assert caught.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE)
            await until(lambda: len(supervisor.pids) == 2 and set(supervisor.pids) != pids)
            assert len(pids & set(supervisor.pids)) == 1
            assert await versions(address) == ["2"] * CONNECTIONS

    asyncio.run(scenario())


def test_a_worker_that_dies_while_others_load_is_replaced_by_one_that_has_loaded_too(
    settings: Callable[..., ServeConfig], repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))

    async def scenario() -> None:
        async with supervised(settings(model_control="explicit", load_models=("m",))) as supervisor:
            publish(repository / "m" / "2", seed=2)
            (tmp_path / "hold").touch()
            loading = asyncio.create_task(supervisor._manager.load("m"))
            await until(lambda: len(list(tmp_path.glob("building-*"))) == 1)
            [builder] = [int(path.name.partition("-")[2]) for path in tmp_path.glob("building-*")]
            [victim] = set(supervisor.pids) - {builder}
            os.kill(victim, signal.SIGKILL)
            await until(lambda: supervisor.pids == [builder])
            assert not loading.done()
            (tmp_path / "released").touch()
            await loading
            await until(lambda: len(supervisor.pids) == 2)
            answers = await everywhere(supervisor.address, lambda client: client.act("m", ROWS[0]))
            assert [answer.version for answer in answers] == ["2"] * CONNECTIONS

    asyncio.run(scenario())


def test_a_worker_that_cannot_be_as_the_others_stays_out_until_it_can(
    settings: Callable[..., ServeConfig], repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(repository / "n" / "1", seed=2)

    async def versions(address: str) -> list[str]:
        answers = await everywhere(address, lambda client: client.act("m", ROWS[0]))
        return [getattr(answer, "version", type(answer).__name__) for answer in answers]

    async def scenario() -> None:
        async with supervised(settings()) as supervisor:
            shutil.move(repository / "m", repository.parent / "away")
            os.kill(supervisor.pids[0], signal.SIGKILL)
            await until(lambda: "cannot be loaded: its files are no longer those" in caplog.text)
            assert len(supervisor.pids) == 1
            assert await versions(supervisor.address) == ["1"] * CONNECTIONS
            shutil.move(repository.parent / "away", repository / "m")
            await until(lambda: len(supervisor.pids) == 2)
            assert await versions(supervisor.address) == ["1"] * CONNECTIONS

            # Where nobody is left who has it, the rest is served.
            shutil.rmtree(repository / "m")
            for pid in supervisor.pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: "no worker serves it any more" in caplog.text)
            await until(lambda: len(supervisor.pids) > 0)
            answers = await everywhere(supervisor.address, lambda client: client.act("n", ROWS[0]))
            assert [answer.version for answer in answers] == ["1"] * CONNECTIONS
            assert await versions(supervisor.address) == ["UnavailableError"] * CONNECTIONS

    asyncio.run(scenario())


def test_workers_that_cannot_begin_leave_nothing_behind(settings: Callable[..., ServeConfig], repository: Path) -> None:
    async def refused(config: ServeConfig, match: str) -> None:
        with pytest.raises(ServerError, match=match):
            async with supervised(config):
                pass
        assert not [child for child in psutil.Process().children() if "torso.serve.workers.worker" in child.cmdline()]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", config.port))

    async def scenario() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        await refused(settings(port=port, import_modules=("no_such_module",)), "cannot import no_such_module")
        (repository / "m" / "1" / "weights.safetensors").write_bytes(b"")
        await refused(settings(port=port), "model 'm'")

    asyncio.run(scenario())


def test_what_other_processes_cannot_have_is_refused(settings: Callable[..., ServeConfig]) -> None:
    with pytest.raises(ServerError, match=r"wrap_backend must be None with 2 workers, .*, got <function"):
        serve(settings(), lambda name, backend: backend)
    with pytest.raises(ServerError, match="workers must be 1 for a server in this process, got 2"):
        asyncio.run(create_server(settings()))
