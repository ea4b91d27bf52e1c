"""Concurrent requests: batching, a full queue, deadlines, cancelled clients, loading and draining."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from torso import errors
from torso.nets import Predictor
from torso.nets.prediction.backend import Outputs
from torso.serve import AsyncClient, Client, ServeConfig, Server, create_server
from torso.serve.backends.selection import equal_readouts, probe_batch


async def gated(
    config: ServeConfig, gate: Any, scenario: Callable[[Any, AsyncClient], Awaitable[None]], **client: Any
) -> None:
    """Run a scenario while one row is being computed and waits at the gate."""
    async with (
        await create_server(config, gate.wrap) as server,
        AsyncClient(server.address) as first,
        AsyncClient(server.address, **client) as second,
    ):
        await asyncio.gather(first.get_model("cartpole"), second.get_model("cartpole"))
        gate.close()
        computing = asyncio.create_task(first.act("cartpole", np.zeros((1, 4), dtype=np.float32)))
        assert await asyncio.to_thread(gate.entered.wait, 30)
        try:
            await scenario(server, second)
        finally:
            gate.open()
        await computing


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_16_concurrent_rows_share_forwards_and_each_gets_its_own(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    predictor = Predictor.load(models.cartpole)
    rows = probe_batch(predictor.input, 16)

    async def scenario() -> None:
        async with (
            await create_server(config(models.cartpole), gate.wrap) as server,
            AsyncClient(server.address) as client,
        ):
            await client.get_model("cartpole")
            batcher = server.repository.models["cartpole"].batcher
            gate.close()
            asking = [asyncio.create_task(client.act("cartpole", row)) for row in rows]
            assert await asyncio.to_thread(gate.entered.wait, 30)
            while batcher.queued_rows < 16 - gate.batches[0]:
                await asyncio.sleep(0.001)
            gate.open()
            answers = await asyncio.gather(*asking)
            assert batcher.rows == 16
            assert batcher.forwards == len(gate.batches) == 2  # the one that was waited for, and all the rest
            for row, answer in zip(rows, answers, strict=True):
                assert equal_readouts(answer.values, predictor.run(row[np.newaxis]))

    asyncio.run(scenario())


def test_a_client_that_goes_away_costs_nothing_and_hurts_nobody(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario(server: Any, client: AsyncClient) -> None:
        batcher = server.repository.models["cartpole"].batcher
        leaver = AsyncClient(server.address)
        await leaver.get_model("cartpole")
        leaving = asyncio.create_task(leaver.act("cartpole", np.zeros((5, 4), dtype=np.float32)))
        cancelled = asyncio.create_task(client.act("cartpole", np.zeros((3, 4), dtype=np.float32)))
        await until(lambda: batcher.queued_rows == 8)
        staying = asyncio.create_task(client.act("cartpole", np.zeros((2, 4), dtype=np.float32)))
        await until(lambda: batcher.queued_rows == 10)
        await leaver.close()
        cancelled.cancel()
        await until(lambda: batcher.queued_rows == 2)
        gate.open()
        assert (await staying).values.shape == (2, 2)
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises((asyncio.CancelledError, errors.ServiceError)):
            await leaving
        assert gate.batches == [1, 2]

    asyncio.run(gated(config(models.cartpole), gate, scenario))


def test_a_client_that_goes_away_in_its_own_forward_hurts_nobody(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario() -> None:
        async with (
            await create_server(config(models.cartpole), gate.wrap) as server,
            AsyncClient(server.address) as leaver,
            AsyncClient(server.address) as client,
        ):
            await leaver.get_model("cartpole")
            gate.close()
            leaving = asyncio.create_task(leaver.act("cartpole", [[0, 0, 0, 0]]))
            assert await asyncio.to_thread(gate.entered.wait, 30)
            leaving.cancel()
            staying = asyncio.create_task(client.act("cartpole", [[1, 1, 1, 1]]))
            await until(lambda: server.repository.models["cartpole"].batcher.queued_rows == 1)
            gate.open()
            assert (await staying).actions.shape == (1,)

    asyncio.run(scenario())


def test_a_full_queue_is_resource_exhausted_with_retry_info(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario(_server: Any, client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.act("cartpole", np.zeros((3, 4), dtype=np.float32)))
        await until(lambda: _server.repository.models["cartpole"].batcher.queued_rows == 3)
        with pytest.raises(errors.OverloadedError, match="no room for 2 more") as caught:
            await client.act("cartpole", np.zeros((2, 4), dtype=np.float32))
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s <= 5
        gate.open()
        assert (await waiting).actions.shape == (3,)

    asyncio.run(gated(config(models.cartpole, max_queue_rows=4), gate, scenario))


def test_a_deadline_that_passes_in_the_queue_costs_no_compute(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario(server: Any, client: AsyncClient) -> None:
        batcher = server.repository.models["cartpole"].batcher
        with pytest.raises(errors.DeadlineError) as caught:
            await client.act("cartpole", np.zeros((3, 4), dtype=np.float32))
        assert caught.value.status == "DEADLINE_EXCEEDED"
        await until(lambda: batcher.queued_rows == 0)
        gate.open()
        await until(lambda: not server.handler.busy)
        assert gate.batches == [1]

    asyncio.run(gated(config(models.cartpole), gate, scenario, timeout_s=0.2))


def test_a_model_that_is_loading_is_unavailable(models: Any, config: Callable[..., ServeConfig]) -> None:
    go = threading.Event()

    def slow(_name: str, backend: Any) -> Any:
        assert go.wait(30)
        return backend

    async def scenario() -> None:
        server = Server(config(models.cartpole), slow)
        try:
            await server.start()
            loading = asyncio.create_task(server.load())
            async with AsyncClient(server.address) as client:
                assert not await client.healthy()
                assert not await client.healthy("cartpole")
                with pytest.raises(errors.UnavailableError, match="'cartpole' is loading") as caught:
                    await client.get_model("cartpole")
                assert caught.value.retry_after_s is not None
                go.set()
                await client.wait_ready()
                await loading
                assert (await client.act("cartpole", [0, 0, 0, 0])).actions.shape == (1,)
        finally:
            go.set()
            await server.stop()

    asyncio.run(scenario())


def test_a_draining_server_finishes_what_it_has_and_is_unavailable(
    models: Any, config: Callable[..., ServeConfig], gate: Any
) -> None:
    async def scenario(server: Any, client: AsyncClient) -> None:
        waiting = asyncio.create_task(client.act("cartpole", [0, 0, 0, 0]))
        await until(lambda: server.repository.models["cartpole"].batcher.queued_rows == 1)
        draining = asyncio.create_task(server.drain())
        await until(lambda: server.handler.closed)
        assert not await client.healthy()
        assert not await client.healthy("cartpole")
        with pytest.raises(errors.UnavailableError, match="shutting down"):
            await client.act("cartpole", [0, 0, 0, 0])
        gate.open()
        assert (await waiting).actions.shape == (1,)
        await draining
        with pytest.raises(errors.UnavailableError, match="no answer from"):
            await client.list_models()

    asyncio.run(gated(config(models.cartpole), gate, scenario))


def test_a_failing_backend_is_internal_with_an_id_that_the_log_has(
    models: Any, config: Callable[..., ServeConfig], running: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks:
        name = "breaks"

        def __init__(self, backend: Any) -> None:
            self.backend = backend

        def run(self, inputs: np.ndarray, *state: np.ndarray) -> Outputs:
            if inputs[0, 0] == 7:
                raise RuntimeError("a secret")
            return self.backend.run(inputs, *state)

    with (
        running(config(models.cartpole), lambda _name, backend: Breaks(backend)) as server,
        Client(server.address) as client,
        caplog.at_level(logging.ERROR, "torso"),
    ):
        with pytest.raises(errors.InternalServiceError, match="the server's log has it under id") as caught:
            client.act("cartpole", [7, 0, 0, 0])
        assert caught.value.status == "INTERNAL"
        assert "secret" not in str(caught.value)
        [record] = caplog.records
        assert str(caught.value).rpartition(" ")[2] in record.getMessage()
        assert "a secret" in str(record.exc_info)
        assert client.act("cartpole", [0, 0, 0, 0]).actions.shape == (1,)  # the batcher still runs
