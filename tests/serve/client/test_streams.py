"""Client streams: coercion of observations, timeouts, cancellation and closing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest

from torso.errors import DeadlineError, InputError, UnavailableError, UnknownModelError, WrongKindError
from torso.nets import Predictor
from torso.serve import AsyncClient, Client

CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # of answers that another backend, or another batch, computed
STILL = np.zeros(4, np.float32)


def test_envs_that_play_together(served: Any, models: Any) -> None:
    local = Predictor.load(models.cartpole)
    observations = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    with Client(served.address) as client, client.act_stream("cartpole") as stream:
        actions, state = stream.act_together(observations[0])
        assert actions.dtype == np.int64
        assert actions.tolist() == local.act(observations[0])[0].tolist()
        assert state[0].tolist() == [0, 1, 2, 3, 4]
        actions, state = stream.act_together(observations[1], state)
        assert actions.tolist() == local.act(observations[1])[0].tolist()
        stream.end(3)
        with pytest.raises(WrongKindError, match="episode 3 is unknown"):
            stream.act_together(observations[1], state)
        assert stream.act_together(observations[1])[0].tolist() == actions.tolist()


def test_observations_are_brought_into_the_models_dtype_where_that_loses_nothing(served: Any) -> None:
    with Client(served.address) as client:
        with client.act_stream("cartpole") as stream:
            assert stream.act([1, 2, 3, 4], start=True).values.shape == (2,)
            with pytest.raises(InputError, match="observation must be an array of one shape"):
                stream.act([[1, 2], [3]])
            for name, number in (("episode", -1), ("episode", 2**64), ("seed", -1), ("seed", 2**64)):
                with pytest.raises(InputError, match=f"{name} must be a number from 0"):
                    stream.act(STILL, **{"start": True, name: number})
        with client.act_stream("frames") as stream:
            plane = np.random.default_rng(0).integers(256, size=(84, 84), dtype=np.uint8)
            as_bytes = stream.act(plane, start=True).values
            np.testing.assert_array_equal(stream.act(plane.astype(np.int64), start=True).values, as_bytes)


def test_streams_to_models_that_are_not_there(served: Any) -> None:
    with Client(served.address) as client:
        with pytest.raises(UnknownModelError, match="unknown model 'nobody'"):
            client.act_stream("nobody")
        with client.act_stream("digits") as stream:
            with pytest.raises(WrongKindError, match="is a classifier"):
                stream.act(np.zeros((8, 8), np.uint8), start=True)
            with pytest.raises(WrongKindError):  # it has ended
                stream.act(STILL)

    async def scenario() -> None:
        async with AsyncClient(served.address) as client:
            with pytest.raises(UnknownModelError, match="unknown model 'nobody'"):
                async with client.act_stream("nobody"):
                    pass
            async with client.act_stream("digits") as stream:
                with pytest.raises(WrongKindError, match="is a classifier"):
                    await stream.act(np.zeros((8, 8), np.uint8), start=True)
                with pytest.raises(WrongKindError):
                    await stream.end()

    asyncio.run(scenario())


def test_an_answer_that_comes_too_late_is_nobodys(running: Any, config: Any, models: Any, gate: Any) -> None:
    local = Predictor.load(models.cartpole)
    late, after = np.full(4, 3, np.float32), np.full(4, -3, np.float32)
    with running(config(models.cartpole), gate.wrap) as server, Client(server.address) as client:
        with client.act_stream("cartpole") as stream:
            stream.act(STILL, start=True)
            gate.close()
            with pytest.raises(DeadlineError, match=r"no answer within 0.05 s"):
                stream.act(late, timeout_s=0.05)
            gate.open()
            np.testing.assert_allclose(stream.act(after).values, local.run(after[np.newaxis])[0], **CLOSE)
        gate.released.clear()

        async def scenario() -> None:
            async with AsyncClient(server.address) as other, other.act_stream("cartpole") as stream:
                asked = asyncio.ensure_future(stream.act(late, start=True))
                await asyncio.sleep(0)
                asked.cancel()
                with pytest.raises(DeadlineError, match=r"no answer within 0.05 s"):
                    await stream.act(late, timeout_s=0.05)
                gate.open()
                np.testing.assert_allclose((await stream.act(after)).values, local.run(after[np.newaxis])[0], **CLOSE)
                await stream.end()
                with pytest.raises(WrongKindError):
                    await stream.act(after)

        asyncio.run(scenario())


def test_a_closed_stream_is_closed(served: Any) -> None:
    with Client(served.address) as client:
        stream = client.act_stream("cartpole")
        asked = [stream.submit(STILL, episode=number, start=True) for number in range(20)]
        stream.close()
        assert [each.result(0).values.shape for each in asked] == [(2,)] * 20  # what was asked is answered
        for call in (lambda: stream.act(STILL), lambda: stream.submit(STILL), stream.end):
            with pytest.raises(UnavailableError, match="the stream has ended"):
                call()
        stream.close()
        with contextlib.suppress(KeyError), client.act_stream("cartpole") as stream:
            asked = [stream.submit(STILL, start=True)]
            raise KeyError  # at once
        assert asked[0].done()
        assert [connection.in_flight for connection in client._pool.connections] == [0]

    async def scenario() -> None:
        async with AsyncClient(served.address) as client:
            async with client.act_stream("cartpole") as stream:
                asked = [asyncio.ensure_future(stream.act(STILL, episode=n, start=True)) for n in range(20)]
                await asyncio.sleep(0)
            assert [(await each).values.shape for each in asked] == [(2,)] * 20
            with pytest.raises(UnavailableError, match="the stream has ended"):
                await stream.act(STILL)
            with contextlib.suppress(KeyError):
                async with client.act_stream("cartpole") as stream:
                    asked = [asyncio.ensure_future(stream.act(STILL, start=True))]
                    await asyncio.sleep(0)
                    raise KeyError
            with pytest.raises(UnavailableError):
                await asked[0]
            assert [connection.in_flight for connection in client._pool.connections] == [0]

    asyncio.run(scenario())
