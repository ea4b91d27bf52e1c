"""Request queue: batches by order, size and deadlines. Times are made up; a row takes a second, or as stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import DeadlineError, UnavailableError
from torso.serve.inference.forward_times import LatencyEstimate
from torso.serve.inference.queue import INFINITY, Admission, RequestQueue

SECOND_A_ROW = {1: 1.0, 64: 64.0}


class Queue:
    """Requests of so many rows and such deadlines, queued one after the other."""

    def __init__(self, *requests: tuple[int, float], seconds: dict[int, float] = SECOND_A_ROW, most: int = 64) -> None:
        self.queued_rows = 0
        self.queue = RequestQueue(most, 0.0, LatencyEstimate(seconds))
        self.requests = [Admission(self.count, rows) for rows, _ in requests]
        for request, (rows, deadline) in zip(self.requests, requests, strict=True):
            self.queue.append(request, np.zeros((rows, 2)), deadline, 0.0)

    def count(self, rows: int, _requests: int) -> None:
        self.queued_rows += rows

    def take(self, now: float = 0.0) -> list[int]:
        batch = self.queue.take(now)
        if batch is None:
            return []
        assert batch.rows == sum(len(request.inputs) for request in batch.requests)
        return [self.requests.index(request) for request in batch.requests]

    @property
    def failed(self) -> list[int]:
        return [index for index, request in enumerate(self.requests) if isinstance(request.error, DeadlineError)]


def test_in_order_as_many_as_fit() -> None:
    queue = Queue((2, INFINITY), (1, INFINITY), (2, INFINITY), (9, INFINITY), (1, INFINITY), most=4)
    assert [queue.take(), queue.take(), queue.take(), queue.take(), queue.take()] == [[0, 1], [2], [3], [4], []]
    assert (queue.queued_rows, queue.queue.rows, len(queue.queue)) == (0, 0, 0)


def test_what_is_too_late_is_dropped() -> None:
    queue = Queue((1, 5.0), (1, INFINITY), (1, 4.0), seconds={})
    assert queue.take(now=5.0) == [1]
    assert queue.failed == [0, 2]
    assert queue.queued_rows == 0


def test_what_cannot_be_in_time_makes_room() -> None:
    queue = Queue((10, 14.0), (3, 5.0), (1, 100.0))
    assert queue.take() == [1]  # 10 rows want 15 s with the headroom, 3 want 4.5 s, and 4 want 6 s
    assert queue.failed == [0]


def test_what_cannot_be_in_time_is_tried_where_nothing_else_waits() -> None:
    queue = Queue((10, 9.0))
    assert queue.take() == [0]
    assert queue.failed == []


def test_a_batch_does_not_grow_beyond_the_deadlines_of_those_in_it() -> None:
    queue = Queue((4, 11.0), (3, INFINITY), (3, INFINITY), (1, INFINITY))
    assert queue.take() == [0, 1]  # 7 rows want 10.5 s with the headroom, 10 rows 15 s
    assert queue.take(now=7.0) == [2, 3]
    assert queue.failed == []


def test_what_has_been_waiting_for_nothing_is_told_so() -> None:
    queue = Queue((1, INFINITY), (2, INFINITY))
    queue.queue.remove(queue.requests[0])
    assert queue.queue.rows == 2
    queue.queue.clear(UnavailableError("closed"))
    assert (queue.queue.rows, len(queue.queue)) == (0, 0)
    assert [request.done for request in queue.requests] == [False, True]


@pytest.mark.parametrize(
    ("queued", "rows", "seconds"), [(0, 1, 1.0), (3, 1, 4.0), (7, 1, 8.0), (8, 1, 9.0), (9, 3, 12.0)]
)
def test_what_it_takes_to_compute_all(queued: int, rows: int, seconds: float) -> None:
    queue = Queue(*[(1, INFINITY)] * queued, most=4)
    assert queue.queue.compute_s(rows) == pytest.approx(seconds)


REQUESTS = st.lists(st.tuples(st.integers(1, 9), st.one_of(st.just(INFINITY), st.floats(0.1, 60.0))), max_size=30)


@given(REQUESTS, st.integers(1, 8), st.sampled_from([{}, {1: 0.5, 8: 0.6}, SECOND_A_ROW]))
def test_every_request_is_computed_once_in_order_or_dropped_for_its_deadline(
    requests: list[tuple[int, float]], most: int, seconds: dict[int, float]
) -> None:
    queue = Queue(*requests, seconds=seconds, most=most)
    latency, now, computed = LatencyEstimate(seconds), 0.0, []
    while len(queue.queue):
        left = len(queue.queue)
        taken = queue.take(now)
        if not taken:
            assert len(queue.queue) == 0
            break
        rows = sum(requests[index][0] for index in taken)
        assert rows <= most or len(taken) == 1
        now += latency.seconds(rows)
        assert all(requests[index][1] >= now for index in taken) or left == 1 or len(queue.queue) == 0
        computed += taken
    assert computed == sorted(set(range(len(requests))) - set(queue.failed))
    assert all(requests[index][1] < INFINITY for index in queue.failed)
    assert queue.queued_rows == queue.queue.rows == 0
