"""Request queue: batches by turns, size and deadlines. Times are made up; a row takes a second, or as stated."""

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
    """Requests of so many rows, such deadlines and, where they differ, callers, queued one after the other."""

    def __init__(
        self, *requests: tuple[int, float], seconds: dict[int, float] = SECOND_A_ROW, most: int = 64, callers: str = ""
    ) -> None:
        self.queued_rows = 0
        self.queue = RequestQueue(most, 0.0, LatencyEstimate(seconds))
        self.requests: list[Admission] = []
        for index, (rows, deadline) in enumerate(requests):
            self.add(rows, deadline, callers[index] if callers else "")

    def add(self, rows: int, deadline: float = INFINITY, caller: str = "") -> None:
        request = Admission(self.count, rows, caller)
        self.requests.append(request)
        self.queue.append(request, np.arange(rows), deadline, 0.0)

    def count(self, rows: int, _requests: int) -> None:
        self.queued_rows += rows

    def take(self, now: float = 0.0) -> list[int]:
        batch = self.queue.take(now)
        if batch is None:
            return []
        assert batch.rows == sum(len(rows) for rows in batch.inputs)
        assert self.queued_rows == self.queue.rows == sum(request.left for request in self.requests if request.queued)
        return [self.requests.index(request) for request in batch.requests]

    def take_all(self) -> str:
        """The callers of all batches' requests, batches apart."""
        return " ".join(
            "".join(self.requests[index].caller for index in batch) for batch in iter(self.take, []) if batch
        )

    @property
    def failed(self) -> list[int]:
        return [index for index, request in enumerate(self.requests) if isinstance(request.error, DeadlineError)]


def test_in_order_as_many_as_fit() -> None:
    queue = Queue((2, INFINITY), (1, INFINITY), (2, INFINITY), (9, INFINITY), (1, INFINITY), most=4)
    assert [queue.take() for _ in range(6)] == [[0, 1], [2], [3], [3], [3, 4], []]
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


# -- several callers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "batches"),
    [
        ("a1 a1 b1 b1 a1", "abab a"),  # in turn; what is due at once, in order of arrival
        ("a4 a4 a4 b1 b1", "bb a a a"),  # a small one before a large one that came first, if its turn is sooner
        ("a9 b9", "a b a b ab"),  # pieces are turns of their own, and the last may share a batch
        ("a9 b4 b4 c1", "c a b a b a"),
        ("a2 a2 a2 a2 b1 b1 b1 b1", "bab bab aa"),  # rows count, not requests
        ("a9 a1", "a a aa"),  # whoever is alone: in order of arrival
        ("a1 b2 c3 d4", "ab c d"),
    ],
)
def test_callers_take_turns_by_rows(requests: str, batches: str) -> None:
    queue = Queue(most=4)
    for word in requests.split():
        queue.add(int(word[1:]), caller=word[0])
    assert queue.take_all() == batches
    assert (len(queue.queue), bool(queue.queue), queue.queue.rows, queue.queued_rows) == (0, False, 0, 0)


def test_a_piece_is_what_follows_the_last_one() -> None:
    queue = Queue((9, INFINITY), (1, INFINITY), most=4, callers="ab")
    pieces: list[int] = []
    while (batch := queue.queue.take(0.0)) is not None:
        pieces += [row for request, rows in zip(batch.requests, batch.inputs, strict=True) if request.caller == "a"
                   for row in rows]  # fmt: skip
    assert pieces == list(range(9))


@pytest.mark.parametrize(
    ("piece_s", "sizes"), [(9.0, [8, 8, 4]), (4.0, [4, 4, 4, 8]), (3.9, [2] * 6 + [8]), (0.1, [1] * 12 + [8])]
)
def test_pieces_are_short_where_rows_take_long(piece_s: float, sizes: list[int]) -> None:
    """Others wait for the end of a piece. What is left is a batch like any other."""
    queue = RequestQueue(8, 0.0, LatencyEstimate(SECOND_A_ROW), piece_s)
    queue.append(Admission(lambda _rows, _requests: None, 20), np.arange(20), INFINITY, 0.0)
    assert [batch.rows for batch in iter(lambda: queue.take(0.0), None)] == sizes


def test_whoever_comes_back_does_not_pass_one_that_waits() -> None:
    """Two callers ask again as soon as they are answered: what they had before counts, though nobody remembers it."""
    queue = Queue((4, INFINITY), (1, INFINITY), (1, INFINITY), most=4, callers="abc")
    turns = ""
    while "a" not in turns:
        for index in queue.take():
            turns += queue.requests[index].caller
            queue.add(1, caller=turns[-1])
    assert len(turns) <= 4 + 2 * 4


def test_whoever_was_alone_is_due_for_the_rows_that_are_next() -> None:
    queue = Queue((1, INFINITY), (4, INFINITY), (4, INFINITY), most=4, callers="aaa")
    assert queue.take() == [0]
    queue.add(2, caller="b")
    assert queue.take_all() == "b a a"


def test_whoever_was_alone_has_no_turn_left_from_before() -> None:
    queue = Queue((4, INFINITY), (4, INFINITY), *[(1, INFINITY)] * 3, most=4, callers="aabbb")
    assert queue.take() == [2, 3, 4]
    assert queue.take() == [0]
    queue.add(2, caller="c")
    assert queue.take_all() == "c a"


@pytest.mark.parametrize("removed", [0, 1, 2, 3])
def test_who_leaves_gives_its_turn_to_its_next_request_or_to_others(removed: int) -> None:
    queue = Queue((1, INFINITY), (4, INFINITY), (3, INFINITY), (4, INFINITY), most=4, callers="aabb")
    queue.queue.remove(queue.requests[removed])
    queue.requests[removed].release()
    assert len(queue.queue) == 3
    assert queue.take_all() == {0: "b a b", 1: "ab b", 2: "a b a", 3: "ab a"}[removed]


def test_what_left_between_two_pieces_is_not_computed() -> None:
    queue = Queue((9, INFINITY), (9, INFINITY), most=4, callers="ab")
    assert queue.take() == [0]
    queue.queue.remove(queue.requests[0])
    queue.requests[0].release()
    assert queue.take_all() == "b b b"


def test_what_is_late_between_two_pieces_is_told_so() -> None:
    queue = Queue((9, 20.0), (1, INFINITY), most=4, callers="ab")
    assert [queue.take(now=0.0), queue.take(now=1.0), queue.take(now=20.0)] == [[1], [0], []]
    assert queue.failed == [0]
    assert "while the request was computed" in str(queue.requests[0].error)
    assert (queue.queued_rows, queue.queue.rows) == (0, 0)


@pytest.mark.parametrize(
    ("rows", "caller", "seconds"),
    [
        (1, "c", 3.0),  # a row of each
        (3, "c", 7.0),  # one, three and its own
        (3, "a", 7.0),  # its own four, and three of the other's
        (100, "b", 104.0),
        (7, "b", 11.0),
    ],
)
def test_others_count_for_as_much_as_the_caller_itself(rows: int, caller: str, seconds: float) -> None:
    queue = Queue((1, INFINITY), (3, INFINITY), most=64, callers="ab")
    assert queue.queue.compute_s(rows, caller) == pytest.approx(seconds)


def test_nothing_is_kept_of_who_has_nothing_queued() -> None:
    queue = Queue(most=4)
    for index in range(100):
        queue.add(1, 1.0 if index % 3 else INFINITY, caller=str(index))
    queue.queue.remove(queue.requests[0])
    queue.requests[0].release()
    while queue.take(now=2.0):
        pass
    assert (queue.queue._callers, queue.queue._order) == ({}, [])


TURNS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 40)), max_size=40)


@given(TURNS, st.lists(st.integers(1, 8), min_size=1, max_size=3), st.integers(0, 10))
def test_a_caller_waits_for_a_batch_and_its_own_rows_of_each_other(
    turns: list[tuple[str, int]], own: list[int], before: int
) -> None:
    queue = Queue(most=8)
    for caller, rows in turns:
        queue.add(rows, caller=caller)
    for _ in range(before):
        queue.take()
    behind = [dict.fromkeys("abcdef", 0) for _ in own]
    for rows in own:
        queue.add(rows, caller="z")
    mine = queue.requests[-len(own) :]
    while queue.queue:
        batch = queue.queue.take(0.0)
        assert batch is not None
        for request, rows in zip(batch.requests, batch.inputs, strict=True):
            for waits, passed in zip(mine, behind, strict=True):
                if waits.queued and request.caller != "z":
                    passed[request.caller] += len(rows)
    for index, passed in enumerate(behind):
        assert max(passed.values()) <= 8 + sum(own[: index + 1])


@given(TURNS)
def test_who_waits_all_the_time_gets_as_many_rows_as_any_other(turns: list[tuple[str, int]]) -> None:
    queue = Queue(most=8)
    for caller, rows in turns:
        queue.add(rows, caller=caller)
    got: dict[str, int] = dict.fromkeys((caller for caller, _ in turns), 0)
    while all(any(request.caller == caller and request.queued for request in queue.requests) for caller in got):
        assert not got or max(got.values()) - min(got.values()) <= 16
        batch = queue.queue.take(0.0)
        if batch is None:
            break
        for request, rows in zip(batch.requests, batch.inputs, strict=True):
            got[request.caller] += len(rows)


# -- all of it ---------------------------------------------------------------------------------------------------------

REQUESTS = st.lists(st.tuples(st.integers(1, 9), st.one_of(st.just(INFINITY), st.floats(0.1, 60.0))), max_size=30)


@given(REQUESTS, st.integers(1, 8), st.sampled_from([{}, {1: 0.5, 8: 0.6}, SECOND_A_ROW]), st.integers(1, 3))
def test_every_row_is_computed_once_in_its_callers_order_or_dropped_for_its_deadline(
    requests: list[tuple[int, float]], most: int, seconds: dict[int, float], callers: int
) -> None:
    queue = Queue(*requests, seconds=seconds, most=most, callers="abc"[:callers] * 30)
    latency, now = LatencyEstimate(seconds), 0.0
    computed: dict[int, list[int]] = {}
    while queue.queue:
        batch = queue.queue.take(now)
        if batch is None:
            break
        assert batch.rows == sum(len(rows) for rows in batch.inputs) <= most
        now += latency.seconds(batch.rows)
        others = [request for request in queue.requests if request.queued and request not in batch.requests]
        assert all(request.deadline >= now for request in batch.requests) or not others
        for request, rows in zip(batch.requests, batch.inputs, strict=True):
            computed.setdefault(queue.requests.index(request), []).extend(rows)
    done = [index for index in computed if index not in queue.failed]
    assert sorted([*done, *queue.failed]) == list(range(len(requests)))
    assert all(computed[index] == list(range(requests[index][0])) for index in done)
    for first in range(callers):
        own = [index for index in done if index % callers == first]
        assert own == sorted(own)
    assert all(requests[index][1] < INFINITY for index in queue.failed)
    assert (queue.queued_rows, queue.queue.rows, len(queue.queue)) == (0, 0, 0)
