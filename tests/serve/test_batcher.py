from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from torso.errors import DeadlineError, InputError, InternalServiceError, OverloadedError, UnavailableError
from torso.serve.batcher import Batcher


class Doubler:
    """A forward that doubles, remembers its batches, waits while it is held, and fails on a -13."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def hold(self) -> None:
        self.go.clear()
        self.entered.clear()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        self.batches.append(inputs[:, 0].tolist())
        self.entered.set()
        assert self.go.wait(30)
        if (inputs == -13).any():
            raise ZeroDivisionError("thirteen")
        return inputs * np.float32(2)


@pytest.fixture
def forward() -> Iterator[Doubler]:
    doubler = Doubler()
    yield doubler
    doubler.go.set()


def run(forward: Doubler, scenario: Callable[[Batcher], Awaitable[Any]], **limits: int) -> Any:
    async def main() -> Any:
        batcher = Batcher("m", forward, **{"max_batch_rows": 16, "max_queue_rows": 64, **limits})
        try:
            return await asyncio.wait_for(scenario(batcher), 30)
        finally:
            forward.go.set()
            batcher.close()

    return asyncio.run(main())


async def ask(batcher: Batcher, *values: float, deadline: float | None = None) -> list[float]:
    rows = np.array(values, dtype=np.float32).reshape(-1, 1)
    with batcher.admit(len(rows), "inputs") as admission:
        return (await batcher.submit(rows, admission, deadline))[:, 0].tolist()


async def until_entered(forward: Doubler) -> None:
    assert await asyncio.to_thread(forward.entered.wait, 30)


async def turn() -> None:
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_of_one_turn_share_a_forward_and_each_gets_its_rows(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2, 3), ask(batcher, 4))
        assert answers == [[2], [4, 6], [8]]
        assert forward.batches == [[1, 2, 3, 4]]
        assert (batcher.forwards, batcher.rows, batcher.queued_rows) == (1, 4, 0)

    run(forward, scenario)


def test_what_queues_behind_a_forward_goes_together_in_order(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 0))
        await until_entered(forward)
        rest = [asyncio.create_task(ask(batcher, value)) for value in range(1, 16)]
        await turn()
        assert batcher.queued_rows == 15
        forward.go.set()
        assert await asyncio.gather(first, *rest) == [[2.0 * value] for value in range(16)]
        assert forward.batches == [[0], list(range(1, 16))]

    run(forward, scenario)


def test_a_batch_ends_where_the_next_request_would_not_fit(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        await asyncio.gather(ask(batcher, 1, 1, 1), ask(batcher, 2, 2), ask(batcher, 3))
        assert forward.batches == [[1, 1, 1], [2, 2, 3]]

    run(forward, scenario, max_batch_rows=4)


def test_a_request_beyond_the_batch_limit_runs_alone_in_pieces(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        small, large = await asyncio.gather(ask(batcher, 0), ask(batcher, *range(1, 11)))
        assert small == [0]
        assert large == [2.0 * value for value in range(1, 11)]
        assert forward.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
        assert (batcher.forwards, batcher.rows) == (4, 11)

    run(forward, scenario, max_batch_rows=4)


def test_a_full_queue_counts_rows_and_says_when_to_come_back(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 0))
        await until_entered(forward)
        waiting = asyncio.create_task(ask(batcher, 1, 2, 3))
        await turn()
        with pytest.raises(OverloadedError, match="3 of at most 4 rows are queued; no room for 2 more") as caught:
            await ask(batcher, 4, 5)
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 0
        last = asyncio.create_task(ask(batcher, 6))  # one row still fits
        await turn()
        forward.go.set()
        assert await asyncio.gather(first, waiting, last) == [[0], [2, 4, 6], [12]]
        with pytest.raises(InputError, match="at most 4 rows a request, got 5"):
            await ask(batcher, 1, 2, 3, 4, 5)
        assert batcher.queued_rows == 0

    run(forward, scenario, max_queue_rows=4, max_batch_rows=4)


def test_a_request_that_waited_too_long_is_refused_and_not_computed(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 0))
        await until_entered(forward)
        late = asyncio.create_task(ask(batcher, 1, deadline=asyncio.get_running_loop().time()))
        patient = asyncio.create_task(ask(batcher, 2, deadline=asyncio.get_running_loop().time() + 60))
        await turn()
        forward.go.set()
        assert await asyncio.gather(first, patient) == [[0], [4]]
        with pytest.raises(DeadlineError, match="while the request was queued"):
            await late
        assert forward.batches == [[0], [2]]

    run(forward, scenario)


def test_a_caller_that_goes_away_leaves_the_queue_at_once(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 0))
        await until_entered(forward)
        gone = asyncio.create_task(ask(batcher, 1))
        stays = asyncio.create_task(ask(batcher, 2))
        await turn()
        gone.cancel()
        await turn()
        assert batcher.queued_rows == 1
        first.cancel()  # its forward runs already: that ends, and nobody is told
        await turn()
        forward.go.set()
        assert await stays == [4]
        assert forward.batches == [[0], [2]]

    run(forward, scenario)


def test_a_failing_forward_fails_its_batch_alone_and_the_batcher_lives(
    forward: Doubler, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(batcher: Batcher) -> None:
        with caplog.at_level(logging.ERROR):
            bad, mate = await asyncio.gather(ask(batcher, -13), ask(batcher, 1), return_exceptions=True)
        assert isinstance(bad, InternalServiceError)
        assert isinstance(mate, InternalServiceError)
        assert "thirteen" not in str(bad)
        [record] = caplog.records
        assert str(bad).rpartition(" ")[2] in record.getMessage()
        assert "thirteen" in str(record.exc_info)
        assert await ask(batcher, 2) == [4]

    run(forward, scenario)


def test_a_forward_that_loses_rows_is_a_failure_not_a_shift() -> None:
    async def main() -> None:
        batcher = Batcher("m", lambda inputs: inputs[1:], max_batch_rows=8, max_queue_rows=8)
        answers = await asyncio.gather(ask(batcher, 1), ask(batcher, 2), return_exceptions=True)
        assert [type(answer) for answer in answers] == [InternalServiceError] * 2
        batcher.close()

    asyncio.run(main())


def test_closing_refuses_what_waits_and_what_comes(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 0))
        await until_entered(forward)
        waiting = asyncio.create_task(ask(batcher, 1))
        await turn()
        asyncio.get_running_loop().run_in_executor(None, forward.go.set)
        batcher.close()
        assert await first == [0]
        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            await ask(batcher, 2)
        assert forward.batches == [[0]]

    run(forward, scenario)
