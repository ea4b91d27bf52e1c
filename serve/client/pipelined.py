"""Many inputs as many requests: cut into pieces, several in flight, the answers in order."""

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
from torso.errors import ConfigError, InputError

T = TypeVar("T")

ROWS, IN_FLIGHT = 64, 4  # a server's default max_batch_rows; enough that none of its time goes by waiting for the wire

Inputs = NDArray[Any] | Iterable[ArrayLike]
"""An array of [N, ...], or any iterable of single inputs; an iterable is read only as far as requests are sent."""


def cut(inputs: Inputs, rows: int, field: str) -> Iterator[Array]:
    """Cut inputs into arrays of ``rows`` rows; the last may have fewer. No inputs give none.

    Raises InputError where an array has no rows to cut, or inputs that would share a request differ in shape.
    """
    if isinstance(inputs, np.ndarray):
        if inputs.ndim == 0:
            raise InputError(field, expected="an array of [N, ...] or an iterable of inputs", got="a single number")
        for start in range(0, len(inputs), rows):
            yield inputs[start : start + rows]
        return
    iterator = iter(inputs)
    while piece := list(islice(iterator, rows)):
        try:
            yield np.asarray(piece)
        except ValueError as error:
            raise InputError(field, expected="inputs of one shape", got=f"ragged ones ({error})") from error


def pipelined(pieces: Iterable[Array], ask: Callable[[Array], T], in_flight: int) -> Iterator[T]:
    """Ask for each piece, in threads, at most ``in_flight`` ahead of what was taken; the first error ends it."""
    with ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="many") as threads:
        window: deque[Future[T]] = deque()
        try:
            for piece in pieces:
                window.append(threads.submit(ask, piece))
                if len(window) == in_flight:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()  # those that wait for a thread; the others end by themselves


async def pipelined_async(
    pieces: Iterable[Array], ask: Callable[[Array], Awaitable[T]], in_flight: int
) -> AsyncIterator[T]:
    """`pipelined` for asyncio: tasks in place of threads, and what is under way when it ends is cancelled."""
    window: deque[asyncio.Future[T]] = deque()
    try:
        for piece in pieces:
            window.append(asyncio.ensure_future(ask(piece)))
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
    """Raise ConfigError where requests would be empty, or none would be sent."""
    for name, value in (("rows", rows), ("in_flight", in_flight)):
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, got {value}")
