from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from torso.errors import DeadlineError, InputError, InternalServiceError, OverloadedError, UnavailableError
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


async def ask(batcher: Batcher, *values: float, deadline: float | None = None) -> list[float]:
    rows = np.array(values, dtype=np.float32).reshape(-1, 1)
    with batcher.admit(len(rows), "inputs") as admission:
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
    assert not caplog.records  # it is no fault of the model


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


def test_all_that_queued_behind_the_thread_is_computed_inline_batch_by_batch(forward: Doubler) -> None:
    async def scenario(batcher: Batcher) -> None:
        forward.hold()
        first = asyncio.create_task(ask(batcher, 1, 2, 3, 4, 5))
        await until_entered(forward)
        small = [asyncio.create_task(ask(batcher, value)) for value in range(13)]
        await turn()
        forward.go.set()
        await first
        assert await asyncio.gather(*small) == [[2.0 * value] for value in range(13)]
        assert forward.batches[2:] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12]]

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
