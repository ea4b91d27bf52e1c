"""Operations port: probes and metrics over HTTP, for a server in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from http_get import get

from torso.errors import ServerError
from torso.serve import AsyncClient, Client, ServeConfig, Server, create_server
from torso.serve.observability.ops_port import OpsServer


def test_a_server_is_alive_before_it_is_ready_and_while_it_ends(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario() -> None:
        def asked(path: str) -> Any:
            return asyncio.to_thread(lambda: get(server.ops_port, path)[:2])

        server = Server(config(models.cartpole, ops_port=0), gate.wrap)
        await server.start()
        try:
            assert await asked("/livez") == (200, "ok\n")
            assert await asked("/readyz") == (503, "not ready\n")
            await server.load()
            assert await asked("/readyz") == (200, "ok\n")
            async with AsyncClient(server.address) as client:
                gate.close()
                waiting = asyncio.create_task(client.act("cartpole", [0, 0, 0, 0]))
                assert await asyncio.to_thread(gate.entered.wait, 30)
                await server.announce_shutdown()
                assert await asked("/readyz") == (503, "not ready\n")
                draining = asyncio.create_task(server.drain(30))
                assert await asked("/livez") == (200, "ok\n")
                assert await asked("/readyz") == (503, "not ready\n")
                gate.open()
                await waiting
                await draining
            with pytest.raises(ConnectionRefusedError):
                await asked("/livez")
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_metrics_are_prometheus_and_count_requests(
    models: Any, config: Callable[..., ServeConfig], running: Any
) -> None:
    with running(config(models.cartpole, ops_port=0)) as server, Client(server.address) as client:
        for _ in range(3):
            client.act("cartpole", [0, 0, 0, 0])
        status, text, headers = get(server.server.ops_port, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'torso_requests_total{model="cartpole",status="OK",version="1"} 3.0' in text.splitlines()
    assert "torso_workers 1.0" in text.splitlines()


def test_without_an_ops_port_there_is_none(models: Any, config: Callable[..., ServeConfig], running: Any) -> None:
    with running(config(models.cartpole)) as server:
        assert server.server.ops_port == 0


def test_a_port_that_is_taken_is_named_and_the_other_is_let_go(models: Any, config: Callable[..., ServeConfig]) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            ops_port = taken.getsockname()[1]
            with pytest.raises(
                ServerError, match=f"127.0.0.1 port {ops_port} for /livez, /readyz and /metrics: .*--ops-port"
            ):
                await create_server(config(models.cartpole, port=port, ops_port=ops_port))
        async with await create_server(config(models.cartpole, port=port)) as server:
            assert server.port == port

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_other_addresses_serve(host: str) -> None:
    async def metrics() -> bytes:
        return b"a 1\n"

    async def scenario() -> None:
        ops = OpsServer(host, 0, lambda: True, metrics)
        await ops.start()
        try:
            assert (await asyncio.to_thread(get, ops.port, "/metrics", host=host))[:2] == (200, "a 1\n")
        finally:
            await ops.stop()

    asyncio.run(scenario())


def test_nothing_is_told_beyond_what_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    async def metrics() -> bytes:
        raise RuntimeError("of a secret place")

    async def scenario() -> None:
        ops = OpsServer("127.0.0.1", 0, lambda: True, metrics)
        await ops.start()
        try:
            for path, method, status in (
                ("/", "GET", 404),
                ("/livez/..", "GET", 404),
                ("/readyz", "POST", 405),
                ("/metrics", "GET", 500),
            ):
                got, text, headers = await asyncio.to_thread(get, ops.port, path, method)
                assert got == status
                assert "secret" not in text
                assert "Traceback" not in text
                assert "aiohttp" not in str(headers) + text
                assert "Python" not in str(headers) + text
        finally:
            await ops.stop()

    asyncio.run(scenario())
    assert "of a secret place" in caplog.text  # the operator can see why
