from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torso.errors import DeadlineError, InputError, InternalServiceError, OverloadedError, UnavailableError
from torso.serve.inference import batcher as under_test
from torso.serve.inference.batcher import Batcher
from torso.serve.inference.forward_times import LatencyEstimate
from torso.serve.observability.metrics import ModelMetrics


class Doubler:
    """A forward that doubles, remembers its batches, waits while it is held, and fails on a -13."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.entered = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.threads: list[str] = []

    def hold(self) -> None:
        self.go.clear()
        self.entered.clear()

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        self.batches.append(inputs[:, 0].tolist())
        self.threads.append(threading.current_thread().name)
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


def run(forward: Doubler, scenario: Callable[[Batcher], Awaitable[Any]], **limits: Any) -> Any:
    async def main() -> Any:
        batcher = Batcher("m", forward, **{"max_batch_rows": 16, "max_queue_rows": 64, **limits})
        try:
            return await asyncio.wait_for(scenario(batcher), 30)
        finally:
            forward.go.set()
            batcher.close()

    return asyncio.run(main())


async def ask(batcher: Batcher, *values: float, deadline: float | None = None, caller: str = "") -> list[float]:
    rows = np.array(values, dtype=np.float32).reshape(-1, 1)
    with batcher.admit(len(rows), "inputs", caller) as admission:
        return (await batcher.submit(rows, admission, deadline))[:, 0].tolist()


async def until_entered(forward: Doubler) -> None:
    assert await asyncio.to_thread(forward.entered.wait, 30)


async def turn() -> None:
    """Run every task that can run."""
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


def test_the_pieces_of_a_request_whose_caller_left_are_not_computed(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        asking = asyncio.create_task(ask(batcher, *range(12)))
        await until_entered(forward)
        asking.cancel()
        await turn()
        forward.go.set()
        assert await ask(batcher, 20) == [40]
        assert forward.batches == [[0, 1, 2, 3], [20]]

    run(forward, scenario, max_batch_rows=4)


def test_the_pieces_of_a_request_whose_deadline_passed_are_not_computed(
    forward: Doubler, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        asking = asyncio.create_task(ask(batcher, *range(12), deadline=time.monotonic() + 0.2))
        await until_entered(forward)
        await asyncio.sleep(0.3)
        forward.go.set()
        with pytest.raises(DeadlineError, match="while the request was computed"):
            await asking
        assert forward.batches == [[0, 1, 2, 3]]

    run(forward, scenario, max_batch_rows=4)
    assert not [each for each in caplog.records if each.name.startswith("torso")]  # it is no fault of the model


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
        assert 1.3 <= caught.value.retry_after_s <= 1.8  # 4 rows, 1 row, and what is left of the row that runs
        last = asyncio.create_task(ask(batcher, 6))  # one row still fits
        await turn()
        forward.go.set()
        assert await asyncio.gather(first, waiting, last) == [[0], [2, 4, 6], [12]]
        with pytest.raises(InputError, match="at most 4 rows a request, got 5"):
            await ask(batcher, 1, 2, 3, 4, 5)
        assert batcher.queued_rows == 0

    run(forward, scenario, max_queue_rows=4, max_batch_rows=4, latency=LatencyEstimate({1: 0.5, 4: 0.8}))


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


@pytest.mark.parametrize("inline_rows", [0, 16])
def test_a_request_that_the_forward_fails_for_fails_alone(
    forward: Doubler, caplog: pytest.LogCaptureFixture, inline_rows: int
) -> None:
    async def scenario(batcher: Batcher) -> None:
        with caplog.at_level(logging.ERROR):
            answers = await asyncio.gather(
                ask(batcher, 1), ask(batcher, -13), ask(batcher, 2, 3), ask(batcher, -13, 4), return_exceptions=True
            )
        assert answers[0] == [2]
        assert answers[2] == [4, 6]
        bad = [answers[1], answers[3]]
        assert [type(error) for error in bad] == [InternalServiceError] * 2
        assert forward.batches == [[1, -13, 2, 3, -13, 4], [1], [-13], [2, 3], [-13, 4]]
        for error, record in zip(bad, caplog.records, strict=True):
            assert "thirteen" not in str(error)
            assert str(error).rpartition(" ")[2] in record.getMessage()
            assert "thirteen" in str(record.exc_info)
        assert await ask(batcher, 2) == [4]  # the batcher lives

    run(forward, scenario, inline_rows=inline_rows)


def test_a_forward_that_fails_for_all_is_one_incident(forward: Doubler, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(batcher: Batcher) -> None:
        with caplog.at_level(logging.ERROR):
            answers = await asyncio.gather(ask(batcher, -13), ask(batcher, -13, 1), return_exceptions=True)
        [record] = caplog.records
        for error in answers:
            assert isinstance(error, InternalServiceError)
            assert str(error).rpartition(" ")[2] in record.getMessage()

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


# -- inline, or in the thread ------------------------------------------------------------------------------------------


def test_small_batches_are_computed_on_the_event_loop_and_large_ones_in_the_thread(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        assert await asyncio.gather(ask(batcher, 1), ask(batcher, 2)) == [[2], [4]]
        assert await asyncio.gather(ask(batcher, 1), ask(batcher, 2, 3)) == [[2], [4, 6]]
        assert forward.batches == [[1, 2], [1, 2, 3]]
        assert forward.threads == [threading.current_thread().name, "infer-m"]

    run(forward, scenario, inline_rows=2)


def test_an_inline_batcher_needs_no_thread(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(ask(batcher, value) for value in range(40)))
        assert answers == [[2.0 * value] for value in range(40)]
        assert forward.batches == [list(range(16)), list(range(16, 32)), list(range(32, 40))]
        assert not [thread for thread in threading.enumerate() if thread.name == "infer-m"]
        assert batcher.queued_rows == 0

    run(forward, scenario, inline_rows=16)


def test_whoever_leads_an_inline_batch_may_go_away(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        first, second, third = (asyncio.create_task(ask(batcher, value)) for value in (1, 2, 3))
        await asyncio.sleep(0)  # each has queued its row now, and nothing is computed
        assert batcher.queued_rows == 3
        first.cancel()
        assert await asyncio.gather(second, third) == [[4], [6]]
        assert first.cancelled()
        assert forward.batches == [[2, 3]]
        assert batcher.queued_rows == 0

    run(forward, scenario, inline_rows=16)


def test_what_queues_behind_the_thread_goes_inline_where_it_is_small(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 1, 2, 3))
        await until_entered(forward)
        small = asyncio.create_task(ask(batcher, 4))
        await turn()
        forward.go.set()
        assert await asyncio.gather(first, small) == [[2, 4, 6], [8]]
        assert forward.threads == ["infer-m", threading.current_thread().name]

    run(forward, scenario, inline_rows=2)


def test_pieces_that_are_small_enough_are_computed_on_the_event_loop(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        large, small = await asyncio.gather(ask(batcher, *range(9), caller="a"), ask(batcher, 20, caller="b"))
        assert large == [2.0 * value for value in range(9)]
        assert small == [40]
        assert forward.batches == [[20], [0, 1, 2, 3], [4, 5, 6, 7], [8]]
        assert set(forward.threads) == {threading.current_thread().name}

    run(forward, scenario, inline_rows=4, max_batch_rows=4)


# -- the delay ---------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_not_full_waits_for_more(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        first = asyncio.create_task(ask(batcher, 1))
        await turn()
        assert await asyncio.gather(first, ask(batcher, 2)) == [[2], [4]]
        assert forward.batches == [[1, 2]]

    run(forward, scenario, inline_rows=16, max_delay_us=500_000)


@pytest.mark.parametrize("inline_rows", [0, 16])
@pytest.mark.parametrize("delay_us", [300, 1_999, 7_000])
def test_a_batch_waits_as_long_as_it_is_told_and_not_for_ever(
    forward: Doubler, delay_us: int, inline_rows: int
) -> None:
    async def scenario(batcher: Batcher) -> None:
        for value in range(3):
            started = time.monotonic()
            assert await ask(batcher, value) == [2 * value]
            assert time.monotonic() - started >= delay_us * 1e-6

    run(forward, scenario, inline_rows=inline_rows, max_delay_us=delay_us)


def test_a_full_batch_waits_for_nothing(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        first = asyncio.create_task(ask(batcher, 0))
        await turn()
        assert forward.batches == []
        assert await asyncio.gather(first, ask(batcher, 1, 2), ask(batcher, 3)) == [[0], [2, 4], [6]]
        waits = asyncio.gather(ask(batcher, 1, 2, 3), ask(batcher, 4, 5))  # the second makes the first's batch full
        await turn()
        assert forward.batches == [[0, 1, 2, 3], [1, 2, 3]]
        assert batcher.queued_rows == 2
        waits.cancel()

    run(forward, scenario, inline_rows=4, max_batch_rows=4, max_delay_us=3_600_000_000)


def test_the_delay_leaves_half_of_a_deadlines_time(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        assert await ask(batcher, 1, deadline=time.monotonic() + 1) == [2]

    run(forward, scenario, max_delay_us=3_600_000_000)


def test_closing_ends_the_delay(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        waiting = asyncio.create_task(ask(batcher, 1))
        await turn()
        batcher.close()
        with pytest.raises(UnavailableError):
            await waiting
        assert forward.batches == []

    run(forward, scenario, max_delay_us=3_600_000_000)


def test_a_closed_batcher_is_let_go_of_whatever_it_waited_for(forward: Doubler) -> None:
    async def main() -> None:
        batcher = Batcher("m", forward, max_batch_rows=8, max_queue_rows=8, max_delay_us=3_600_000_000)
        asking = asyncio.create_task(ask(batcher, 1))
        await turn()
        batcher.close()
        with pytest.raises(UnavailableError):
            await asking
        gone = weakref.ref(batcher)
        del batcher, asking
        await turn()
        gc.collect()
        assert gone() is None

    asyncio.run(main())


# -- deadlines that cannot be met --------------------------------------------------------------------------------------


def test_a_request_without_hope_is_refused_at_once(forward: Doubler) -> None:
    """A forward of a row is said to take 10 s: behind one that runs and two that wait, a third is done after 40 s.

    For that it must have 60 s; without the one that runs, 45 would do.
    """

    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        now = time.monotonic()
        first = asyncio.create_task(ask(batcher, 0))
        await until_entered(forward)
        queued = [asyncio.create_task(ask(batcher, value, deadline=now + 100)) for value in (1, 2)]
        await turn()
        with pytest.raises(OverloadedError, match="too much is queued for an answer before the deadline") as caught:
            await ask(batcher, 3, deadline=now + 55)
        assert caught.value.retry_after_s == 5.0
        patient = [asyncio.create_task(ask(batcher, 4, deadline=now + 120)), asyncio.create_task(ask(batcher, 5))]
        await turn()
        forward.go.set()
        assert await asyncio.gather(first, *queued, *patient) == [[0], [2], [4], [8], [10]]

    run(forward, scenario, max_batch_rows=1, latency=LatencyEstimate({1: 10.0}))


def test_whatever_is_expected_a_free_model_tries(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        assert await ask(batcher, 1, deadline=time.monotonic() + 30) == [2]

    run(forward, scenario, latency=LatencyEstimate({1: 1000.0}))


@pytest.mark.parametrize("inline_rows", [0, 16])
def test_what_forwards_take_is_learnt_from_them(forward: Doubler, inline_rows: int) -> None:
    latency = LatencyEstimate({1: 1000.0})

    async def scenario(batcher: Batcher) -> None:
        await ask(batcher, 1)
        assert latency.seconds(1) < 900.0
        with pytest.raises(InternalServiceError):
            await ask(batcher, -13)
        await ask(batcher, 1)
        assert latency.seconds(1) < 700.0

    run(forward, scenario, inline_rows=inline_rows, latency=latency)


# -- at once -----------------------------------------------------------------------------------------------------------


def rows_of(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(-1, 1)


def test_a_free_model_takes_a_small_request_at_once(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        assert batcher.can_compute_now(3)
        assert not batcher.can_compute_now(4)
        assert batcher.compute_now(rows_of(1, 2)).tolist() == [[2], [4]]
        assert forward.threads == [threading.main_thread().name]
        assert (batcher.forwards, batcher.rows, batcher.queued_rows) == (1, 2, 0)
        await batcher.wait_drained()

    run(forward, scenario, inline_rows=3)


def test_nobody_overtakes_what_waits_or_computes(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        waiting = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0)
        assert not batcher.can_compute_now(1)
        await waiting
        forward.hold()
        large = asyncio.create_task(ask(batcher, 2, 3))
        await until_entered(forward)
        await turn()
        assert not batcher.can_compute_now(1)  # in the thread
        forward.go.set()
        await large
        assert batcher.can_compute_now(1)
        batcher.close()
        assert not batcher.can_compute_now(1)

    run(forward, scenario, inline_rows=1)


def test_whoever_asks_for_a_delay_or_a_short_queue_gets_it(forward: Doubler) -> None:
    async def delayed(batcher: Batcher) -> None:
        assert not batcher.can_compute_now(1)

    async def short(batcher: Batcher) -> None:
        assert batcher.can_compute_now(2)
        assert not batcher.can_compute_now(3)  # more than a request may have

    run(forward, delayed, inline_rows=4, max_delay_us=1)
    run(forward, short, inline_rows=4, max_queue_rows=2)


def test_a_failure_at_once_is_an_incident_and_a_late_request_is_not_computed(
    forward: Doubler, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(batcher: Batcher) -> None:
        with pytest.raises(DeadlineError):
            batcher.compute_now(rows_of(1), time.monotonic())
        assert forward.batches == []
        with pytest.raises(InternalServiceError, match="the server's log has it"):
            batcher.compute_now(rows_of(-13))
        assert batcher.compute_now(rows_of(1), time.monotonic() + 60).tolist() == [[2]]

    with caplog.at_level(logging.ERROR):
        run(forward, scenario, inline_rows=1)
    assert "thirteen" in caplog.text


def test_what_is_computed_at_once_is_counted_as_the_rest_is(forward: Doubler) -> None:
    told: list[tuple[float, float, float, int]] = []
    metrics = ModelMetrics("m", "1", lambda *times: told.append(times))

    async def scenario(batcher: Batcher) -> None:
        before = time.monotonic()
        batcher.compute_now(rows_of(1, 2))
        assert (metrics.rows, metrics.queued_rows, metrics.batches.keys()) == (2, 0, {2})
        assert (sum(metrics.queue.counts), metrics.queue.total, sum(metrics.compute.counts)) == (1, 0.0, 1)
        assert metrics.compute_request_s == metrics.compute.total > 0
        [(queued, taken, computed, rows)] = told
        assert before <= queued == taken <= computed <= time.monotonic()
        assert rows == 2

    run(forward, scenario, inline_rows=2, metrics=metrics)


# -- what is counted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline_rows", [0, 16])
def test_what_the_metrics_are_told(forward: Doubler, inline_rows: int) -> None:
    told: list[tuple[float, float, float, int]] = []
    metrics = ModelMetrics("m", "1", lambda *times: told.append(times))

    async def scenario(batcher: Batcher) -> None:
        with batcher.admit(5, "inputs"):
            assert metrics.queued_rows == 5
        assert metrics.queued_rows == 0
        before = time.monotonic()
        await asyncio.gather(ask(batcher, 1), ask(batcher, 2, 3))
        assert sum(metrics.queue.counts) == 2
        assert (metrics.rows, sum(metrics.compute.counts), metrics.batches.keys()) == (3, 1, {3})
        assert metrics.compute_request_s == 2 * metrics.compute.total
        assert metrics.queued_rows == 0
        for queued, taken, computed, rows in told:
            assert before <= queued <= taken <= computed <= time.monotonic()
            assert rows == 3
        assert len(told) == 2
        with pytest.raises(DeadlineError):
            await ask(batcher, 1, deadline=time.monotonic())
        with pytest.raises(InternalServiceError):
            await ask(batcher, -13)
        assert (metrics.rows, sum(metrics.compute.counts), len(told)) == (3, 1, 2)

    run(forward, scenario, inline_rows=inline_rows, metrics=metrics)


# -- several callers ---------------------------------------------------------------------------------------------------


def test_a_small_request_goes_between_the_pieces_of_another_callers(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        large = asyncio.create_task(ask(batcher, *range(10), caller="a"))
        await until_entered(forward)
        behind = asyncio.create_task(ask(batcher, 20, caller="a"))
        small = asyncio.create_task(ask(batcher, 30, caller="b"))
        await turn()
        assert batcher.queued_rows == 6 + 1 + 1  # a piece of four rows computes
        forward.go.set()
        assert await asyncio.gather(large, behind, small) == [[2.0 * value for value in range(10)], [40], [60]]
        assert forward.batches == [[0, 1, 2, 3], [30], [4, 5, 6, 7], [8, 9, 20]]

    run(forward, scenario, max_batch_rows=4)


@pytest.mark.parametrize("inline_rows", [0, 4])
def test_a_piece_that_fails_fails_its_request_alone(
    forward: Doubler, caplog: pytest.LogCaptureFixture, inline_rows: int
) -> None:
    async def scenario(batcher: Batcher) -> None:
        asking = [
            asyncio.create_task(ask(batcher, 1, 2, 3, -13, *range(9))),
            asyncio.create_task(ask(batcher, *range(9), -13)),
            asyncio.create_task(ask(batcher, 5)),
        ]
        first, last, other = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(first), type(last), other] == [InternalServiceError, InternalServiceError, [10]]
        assert forward.batches == [
            *([1, 2, 3, -13], [0, 1, 2, 3], [4, 5, 6, 7]),  # the first's other pieces are not computed
            *([8, -13, 5], [8, -13], [5]),
        ]
        assert len(caplog.records) == 2
        assert (batcher.queued_rows, await ask(batcher, 6)) == (0, [12])
        await batcher.wait_drained()

    run(forward, scenario, max_batch_rows=4, inline_rows=inline_rows)


def test_a_request_is_counted_once_whatever_its_pieces(forward: Doubler) -> None:
    told: list[tuple[float, float, float, int]] = []
    metrics = ModelMetrics("m", "1", lambda *times: told.append(times))

    async def scenario(batcher: Batcher) -> None:
        before = time.monotonic()
        await asyncio.gather(ask(batcher, *range(10), caller="a"), ask(batcher, 1, caller="b"))
        assert (metrics.rows, metrics.queued_rows, sum(metrics.queue.counts)) == (11, 0, 2)
        assert {rows: number for rows, (number, _) in metrics.batches.items()} == {1: 1, 4: 2, 2: 1}
        assert sum(metrics.compute.counts) == batcher.forwards == 4
        assert metrics.compute_request_s == pytest.approx(metrics.compute.total)  # no two shared a batch
        for queued, taken, computed, _ in told:
            assert before <= queued <= taken <= computed <= time.monotonic()
        assert [rows for *_, rows in told] == [1, 10]  # the large one's rows, as of one batch of its own
        assert told[1][2] - told[1][1] >= metrics.compute.total - metrics.batches[1][1]

    run(forward, scenario, max_batch_rows=4, metrics=metrics)


def test_closing_refuses_what_is_computed_in_part(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        part = asyncio.create_task(ask(batcher, *range(10), caller="a"))
        await until_entered(forward)
        drained = asyncio.create_task(batcher.wait_drained())
        await turn()
        batcher.close()
        with pytest.raises(UnavailableError):
            await part
        await turn()
        assert not drained.done()  # a piece computes
        forward.go.set()
        await drained
        assert forward.batches == [[0, 1, 2, 3]]
        assert batcher.queued_rows == 0

    run(forward, scenario, max_batch_rows=4)


def test_a_drain_waits_for_all_pieces(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        large = asyncio.create_task(ask(batcher, *range(10)))
        await until_entered(forward)
        drained = asyncio.create_task(batcher.wait_drained())
        await turn()
        forward.go.set()
        await drained
        assert large.result() == [2.0 * value for value in range(10)]

    run(forward, scenario, max_batch_rows=4)


def test_a_deadline_looks_at_what_goes_first_and_not_at_all_that_is_queued(
    forward: Doubler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of four rows takes 8 s, and one row 2 s: a row more is expected after 8 + 4 s, and should have 18 s."""
    monkeypatch.setattr(under_test, "PIECE_S", math.inf)

    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        greedy = [asyncio.create_task(ask(batcher, *range(20), caller="a")) for _ in range(3)]
        await until_entered(forward)
        with pytest.raises(OverloadedError, match="before the deadline"):
            await ask(batcher, 1, deadline=time.monotonic() + 100, caller="a")
        with pytest.raises(OverloadedError, match="before the deadline"):
            await ask(batcher, 1, deadline=time.monotonic() + 15, caller="b")
        small = asyncio.create_task(ask(batcher, 1, deadline=time.monotonic() + 20, caller="b"))
        await turn()
        forward.go.set()
        assert await small == [2]
        await asyncio.gather(*greedy)

    run(forward, scenario, max_batch_rows=4, latency=LatencyEstimate({1: 2.0, 4: 8.0}))


def test_the_last_piece_waits_for_no_others(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        assert await ask(batcher, *range(10)) == [2.0 * value for value in range(10)]
        assert forward.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    run(forward, scenario, max_batch_rows=4, max_delay_us=3_600_000_000)


def test_a_backlog_on_the_event_loop_leaves_it_turns_however_many_come(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        asking, batches = [asyncio.create_task(ask(batcher, *range(2000)))], []
        for _ in range(100):
            asking.append(asyncio.create_task(ask(batcher, 1, 2, 3, 4)))
            await asyncio.sleep(0)
            batches.append(len(forward.batches))
        assert max(after - before for before, after in itertools.pairwise(batches)) <= 2  # its own, and the next
        large, *small = await asyncio.gather(*asking)
        assert small == [[2, 4, 6, 8]] * 100
        assert large == [2.0 * value for value in range(2000)]

    run(forward, scenario, max_batch_rows=4, max_queue_rows=4096, inline_rows=4)


def test_small_requests_are_in_time_beside_a_greedy_caller() -> None:
    """Ten requests of 4096 rows take 640 batches of a millisecond; each of 28 callers is answered after a few."""
    computed: list[int] = []

    def forward(inputs: np.ndarray) -> np.ndarray:
        time.sleep(0.001)
        computed.append(len(inputs))
        return inputs * np.float32(2)

    async def main() -> None:
        latency = LatencyEstimate({1: 0.001, 64: 0.001})
        batcher = Batcher("m", forward, max_batch_rows=64, max_queue_rows=65536, latency=latency)
        greedy = [asyncio.create_task(ask(batcher, *range(4096), caller="greedy")) for _ in range(10)]
        await asyncio.sleep(0.01)
        began = len(computed)
        deadline = time.monotonic() + 2.0
        small = [ask(batcher, value, deadline=deadline, caller=f"small-{value}") for value in range(28)]
        assert await asyncio.gather(*small) == [[2.0 * value] for value in range(28)]
        assert len(computed) - began <= 5
        assert await asyncio.gather(*greedy) == [[2.0 * value for value in range(4096)]] * 10
        batcher.close()

    asyncio.run(asyncio.wait_for(main(), 60))


# -- shares of the queue's room ----------------------------------------------------------------------------------------


def test_a_limited_caller_that_is_alone_has_the_whole_queue_and_no_more(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        halves = [batcher.admit(32, "inputs", "a", True) for _ in range(2)]
        with pytest.raises(OverloadedError, match="64 of at most 64 rows are queued; no room for 1 more"):
            batcher.admit(1, "inputs", "a", True)
        for admission in halves:
            admission.release()
        with pytest.raises(InputError, match="at most 64 rows a request, got 65"):
            batcher.admit(65, "inputs", "a", True)
        with batcher.admit(64, "inputs", "a", True):
            assert batcher.queued_rows == 64
        assert batcher.queued_rows == 0

    run(forward, scenario, max_queue_rows=64)


def test_a_limited_caller_has_its_share_while_others_wait(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        with batcher.admit(30, "inputs", "a", True), batcher.admit(1, "inputs", "b", True):
            with pytest.raises(OverloadedError, match="caller holds 30 of at most 32 rows while others wait") as caught:
                batcher.admit(3, "inputs", "a", True)
            assert caught.value.retry_after_s is not None
            batcher.admit(2, "inputs", "a", True).release()

    run(forward, scenario, max_queue_rows=64)


def test_a_newcomer_finds_room_where_another_has_filled_the_queue(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        for caller, rows in (("a", 64), ("b", 20), ("c", 1)):
            batcher.admit(rows, "inputs", caller, True)
        assert batcher.queued_rows == 85
        with pytest.raises(OverloadedError, match="85 of at most 64 rows are queued"):
            batcher.admit(1, "inputs", "d")  # it is not limited: nothing changes for it

    run(forward, scenario, max_queue_rows=64)


@pytest.mark.parametrize("limited", [False, True])
def test_who_found_no_room_finds_it_once_what_is_too_much_is_computed(
    forward: Doubler, limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("torso.serve.inference.batcher.monotonic", lambda: now)

    async def scenario(batcher: Batcher) -> None:
        nonlocal now
        greedy = [batcher.admit(8, "inputs", "a", True) for _ in range(8)]
        with pytest.raises(OverloadedError):
            batcher.admit(32, "inputs", "b", limited)
        for admission in greedy[:4]:
            admission.release()
        with pytest.raises(OverloadedError, match="caller holds 32 of at most 32 rows while others wait"):
            batcher.admit(8, "inputs", "a", True)
        with batcher.admit(32, "inputs", "b", limited):
            assert batcher.queued_rows == 64
        now += 5.1  # nobody tried again
        batcher.admit(8, "inputs", "a", True)

    run(forward, scenario, max_queue_rows=64)


def test_a_callers_own_refusals_do_not_hide_anothers(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        greedy = batcher.admit(64, "inputs", "a", True)
        for caller in "ba":
            with pytest.raises(OverloadedError):
                batcher.admit(40, "inputs", caller, True)
        greedy.release()
        with batcher.admit(20, "inputs", "a", True), pytest.raises(OverloadedError, match="while others wait"):
            batcher.admit(20, "inputs", "a", True)

    run(forward, scenario, max_queue_rows=64)


def test_what_a_limited_caller_holds_is_forgotten_with_its_requests(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        for number in range(50):
            with batcher.admit(1, "inputs", f"caller-{number}", True) as admission:
                assert (await batcher.submit(rows_of(number), admission)).tolist() == [[2.0 * number]]
        with batcher.admit(1, "inputs", "late", True) as admission, pytest.raises(DeadlineError):
            await batcher.submit(rows_of(1), admission, time.monotonic() - 1)
        assert (batcher._holdings, batcher.queued_rows) == ({}, 0)

    run(forward, scenario)


MIX = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.booleans(), st.sampled_from([0, 0, 0, 1, 3])), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(MIX, st.integers(1, 5), st.sampled_from([0, 2, 5]))
def test_every_request_gets_its_own_rows_once_whatever_the_mix(
    mix: list[tuple[str, int, bool, int]], most: int, inline_rows: int
) -> None:
    """Requests of several callers come in turns of the loop; some of them leave again in the next turn."""
    forward = Doubler()

    async def scenario(batcher: Batcher) -> None:
        asking, expected = [], []
        for number, (caller, rows, leaves, turns) in enumerate(mix):
            values = [100.0 * number + row for row in range(rows)]
            asking.append(asyncio.create_task(ask(batcher, *values, caller=caller)))
            expected.append([2 * value for value in values])
            for _ in range(turns):
                await asyncio.sleep(0)
            if leaves:
                asking[-1].cancel()
        for task, answer in zip(asking, await asyncio.gather(*asking, return_exceptions=True), strict=True):
            assert task.cancelled() or answer == expected[asking.index(task)]
        await batcher.wait_drained()
        computed = [value for batch in forward.batches for value in batch]
        assert len(computed) == len(set(computed))
        answered = [value / 2 for task, answer in zip(asking, expected, strict=True) if not task.cancelled()
                    for value in answer]  # fmt: skip
        assert set(answered) <= set(computed)
        assert all(len(batch) <= most for batch in forward.batches)
        assert batcher.queued_rows == 0

    run(forward, scenario, max_batch_rows=most, max_queue_rows=1000, inline_rows=inline_rows)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_it_is_drained_once_nobody_is_in_and_nothing_computes(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        await batcher.wait_drained()  # at once
        preparing = batcher.admit(1, "inputs")
        drained = asyncio.create_task(batcher.wait_drained())
        await turn()
        assert not drained.done()
        forward.hold()
        with preparing:
            computing = asyncio.create_task(ask(batcher, 1))
            await until_entered(forward)
        await turn()
        assert not drained.done()
        computing.cancel()  # nobody is in, but the model computes
        await turn()
        late = asyncio.create_task(batcher.wait_drained())
        await turn()
        assert not drained.done()
        assert not late.done()
        forward.go.set()
        await asyncio.gather(drained, late)
        assert await ask(batcher, 2) == [4]

    run(forward, scenario)


def test_a_drain_of_inline_batches_ends(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        asking = [asyncio.create_task(ask(batcher, value)) for value in range(20)]
        await asyncio.sleep(0)
        await batcher.wait_drained()
        assert [task.result() for task in asking] == [[2.0 * value] for value in range(20)]

    run(forward, scenario, inline_rows=16)


def test_closing_ends_the_thread_and_may_come_twice(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        await ask(batcher, 1)
        [thread] = [thread for thread in threading.enumerate() if thread.name == "infer-m"]
        batcher.close()
        assert not thread.is_alive()
        batcher.close()

    run(forward, scenario)
