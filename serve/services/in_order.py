"""Answer a stream's requests concurrently, so that they share batches, and yield the answers in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")
T = TypeVar("T")


async def in_order(
    requests: AsyncIterable[R], answer: Callable[[R], Coroutine[Any, Any, T]], *, max_concurrent: int
) -> AsyncGenerator[T, None]:
    """Answer requests as they come, at most ``max_concurrent`` at once, and yield the answers in the requests' order.

    A request counts until its answer was yielded and the next is awaited, so a client that is slow to read answers is
    not read any further (backpressure). Answering begins in order, too. Where this ends early, answers in progress are
    cancelled.
    """
    answers: asyncio.Queue[asyncio.Task[T] | None] = asyncio.Queue()
    slots = asyncio.Semaphore(max_concurrent - 1)
    pending: set[asyncio.Task[Any]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                task = asyncio.create_task(answer(request))
                pending.add(task)
                answers.put_nowait(task)
                await slots.acquire()  # before the next request is taken
        finally:
            answers.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await answers.get()) is not None:
            yield await task
            pending.discard(task)
            slots.release()
        await reading  # raise its error, if any
    finally:
        for task in (reading, *pending):
            task.cancel()
        await asyncio.gather(reading, *pending, return_exceptions=True)
