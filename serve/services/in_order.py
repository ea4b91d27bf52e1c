"""A stream's requests answered side by side, so that they share batches, and the answers given in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")
T = TypeVar("T")


async def in_order(
    requests: AsyncIterable[R], answer: Callable[[R], Coroutine[Any, Any, T]], *, at_once: int
) -> AsyncGenerator[T, None]:
    """Answer requests as they come, ``at_once`` of them at most, and yield the answers in the requests' order.

    A request counts until its answer was yielded and the next is asked for, so whoever is slow to take answers is not
    read any further. Answering begins in order, too. Where this ends early, what is under way is cancelled.
    """
    answers: asyncio.Queue[asyncio.Task[T] | None] = asyncio.Queue()
    places = asyncio.Semaphore(at_once - 1)
    under_way: set[asyncio.Task[Any]] = set()

    async def read() -> None:
        try:
            async for request in requests:
                task = asyncio.create_task(answer(request))
                under_way.add(task)
                answers.put_nowait(task)
                await places.acquire()  # before the next request is taken
        finally:
            answers.put_nowait(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await answers.get()) is not None:
            yield await task
            under_way.discard(task)
            places.release()
        await reading  # raises what it raised
    finally:
        for task in (reading, *under_way):
            task.cancel()
        await asyncio.gather(reading, *under_way, return_exceptions=True)
