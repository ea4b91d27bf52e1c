"""Pipelining: split many inputs into requests, keep several in flight, yield the results in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torso.arrays import Array
from torso.errors import InputError
from torso.plain import shown
from torso.serve.client.arguments import check_count, to_array

T = TypeVar("T")

ROWS, IN_FLIGHT = 64, 4  # a server's default max_batch_rows; enough to hide the network's latency

Inputs = NDArray[Any] | Iterable[ArrayLike]
"""An array of [N, ...], or any iterable of single inputs; an iterable is read only as far as requests are sent."""


def chunked(inputs: Inputs, rows: int, field: str) -> Iterator[Array]:
    """Split inputs into chunks, arrays of ``rows`` rows; the last may have fewer. No inputs give none.

    Raises InputError where an array has no rows, or inputs that would share a request differ in shape.
    """
    if isinstance(inputs, np.ndarray):
        if inputs.ndim == 0:
            raise InputError(field, expected="an array of [N, ...] or an iterable of inputs", got="a single number")
        for start in range(0, len(inputs), rows):
            yield inputs[start : start + rows]
        return
    if not isinstance(inputs, Iterable):
        raise InputError(field, expected="an array of [N, ...] or an iterable of inputs", got=shown(inputs))
    iterator: Iterator[Any] = iter(inputs)
    while chunk := list(islice(iterator, rows)):
        yield to_array(chunk, field, "inputs of one shape")


def pipelined(chunks: Iterable[Array], call: Callable[[Array], T], in_flight: int) -> Iterator[T]:
    """Call for each chunk, in threads, at most ``in_flight`` ahead of the consumer; the first error ends it."""
    with ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="many") as threads:
        window: deque[Future[T]] = deque()
        try:
            for chunk in chunks:
                window.append(threads.submit(call, chunk))
                if len(window) == in_flight:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()  # those that wait for a thread; the others end by themselves


async def pipelined_async(
    chunks: Iterable[Array], call: Callable[[Array], Awaitable[T]], in_flight: int
) -> AsyncIterator[T]:
    """`pipelined` for asyncio: tasks instead of threads; tasks in flight when it ends are cancelled."""
    window: deque[asyncio.Future[T]] = deque()
    try:
        for chunk in chunks:
            window.append(asyncio.ensure_future(call(chunk)))
            if len(window) == in_flight:
                yield await window[0]
                window.popleft()
        while window:
            yield await window[0]
            window.popleft()
    finally:
        for future in window:
            future.cancel()
        await asyncio.gather(*window, return_exceptions=True)


def check_sizes(rows: int, in_flight: int) -> None:
    """Check chunk size and window; ConfigError where requests would be empty, or none would be sent."""
    check_count("rows", rows)
    check_count("in_flight", in_flight)
