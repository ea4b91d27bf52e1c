"""Fixtures: playgrounds in processes of their own, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playground_pages import chromium
from playground_process import Playground


@pytest.fixture(scope="session")
def playground() -> Iterator[Playground]:
    """One playground with the digits that come with torso."""
    running = Playground()
    try:
        yield running
        running.end()
    finally:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Playground]]:
    """``start(*arguments)`` starts one that is killed after the test where it still runs."""
    started: list[Playground] = []

    def begin(*arguments: str, **settings: Any) -> Playground:
        started.append(Playground(*arguments, **settings))
        return started[-1]

    yield begin
    for running in started:
        running.process.kill()
        running.process.wait()
        for stream in (running.process.stdout, running.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running
