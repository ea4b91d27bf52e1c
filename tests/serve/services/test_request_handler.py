"""Request handler: nothing of a call stays in memory once it is over."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import psutil
import pytest

from torso.errors import DeadlineError, InputError
from torso.proto import prediction_pb2 as pb
from torso.serve.inference.batcher import Batcher
from torso.serve.observability.metrics import Metrics
from torso.serve.services.request_handler import Call, RequestHandler


class Heavy:
    """An object that stands for a model."""


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def refused(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_refused_call_lets_go_of_the_model_that_it_asked(behind: Callable[..., Any]) -> None:
    held: list[weakref.ref[Heavy]] = []

    async def answer(_request: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
        model = Heavy()
        held.append(weakref.ref(model))
        raise InputError("field", expected="something else", got=type(model).__name__)

    async def answer_stream(requests: AsyncIterator[bytes], call: Call) -> AsyncIterator[pb.GetModelResponse]:
        async for _ in requests:
            yield await answer(pb.GetModelRequest(), call)

    async def scenario() -> None:
        async with behind(RequestHandler(Metrics()), answer, answer_stream) as channel:
            await refused(channel.unary_unary("/test.Door/answer")(b""))
            stream = channel.stream_stream("/test.Door/answer_stream")(iter([b""]))
            await refused(stream.read())
            for _ in range(5):
                await asyncio.sleep(0)
            assert [heavy() for heavy in held] == [None, None]

    asyncio.run(scenario())


def test_a_refused_calls_message_is_not_kept(behind: Callable[..., Any]) -> None:
    async def answer(request: pb.GetModelRequest, _call: Call) -> pb.GetModelResponse:
        raise InputError("model", expected="a shorter name", got=f"{len(request.model)} letters")

    async def scenario() -> None:
        async with behind(RequestHandler(Metrics()), answer) as channel:
            ask = channel.unary_unary("/test.Door/answer")
            # Two objects, whatever the client in this process keeps of them.
            readable, unreadable = pb.GetModelRequest(model="a" * 1_000_000).SerializeToString(), b"\xff" * 1_000_000
            for number in range(200):
                await refused(ask(readable if number % 2 else unreadable))
                if number == 20:
                    before = psutil.Process().memory_info().rss
            assert psutil.Process().memory_info().rss - before < 50e6  # kept, they would be 180 MB and more

    asyncio.run(scenario())


def test_a_request_that_came_too_late_lets_go_of_its_inputs() -> None:
    async def scenario() -> None:
        batcher = Batcher("m", lambda inputs: inputs, max_batch_rows=4, max_queue_rows=4)
        admission = batcher.admit(1, "inputs")
        gone = weakref.ref(inputs := np.zeros((1, 3), dtype=np.float32))
        with admission, pytest.raises(DeadlineError):
            await batcher.submit(inputs, admission, deadline=0.0)
        assert admission.error is None
        del inputs, admission
        assert gone() is None
        batcher.close()

    asyncio.run(scenario())
