"""Shares of a queue's room: a table, and what holds whatever the callers do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.serve.inference.shares import Holding, share_rows, total_rows


@pytest.mark.parametrize(
    ("queued", "held", "contended", "share"),
    [
        (0, 0, False, 4096),  # alone
        (4096, 4096, False, 4096),
        (4096, 4096, True, 2048),  # another found no room
        (2000, 2000, True, 2048),
        (100, 50, True, 2048),  # half while others have rows queued
        (3000, 1000, True, 2048),
        (3500, 1000, True, 1596),  # or what is free of 4096
        (0, 0, True, 4096),  # a first request
        (1536, 0, True, 4096),
        (2048, 0, True, 3584),
        (4096, 0, True, 1536),
        (5000, 0, True, 632),
        (5632, 0, True, 64),  # an eighth of what is free
        (5700, 0, True, 56),
        (5700, 56, True, 56),
        (6143, 0, True, 1),
        (6144, 0, True, 0),
    ],
)
def test_shares_of_4096_rows(queued: int, held: int, contended: bool, share: int) -> None:
    assert share_rows(4096, queued, held, contended=contended) == share


@pytest.mark.parametrize("max_rows", [1, 2, 4, 7])
def test_a_short_queue_has_room_for_a_first_row(max_rows: int) -> None:
    assert share_rows(max_rows, 0, 0, contended=True) == share_rows(max_rows, 0, 0, contended=False) == max_rows
    assert share_rows(max_rows, total_rows(max_rows), 0, contended=True) == 0


STEPS = st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4096), st.booleans()), max_size=200)


@given(STEPS, st.booleans())
def test_sixteen_greedy_callers_leave_room_for_another(steps: list[tuple[int, int, bool]], refused: bool) -> None:
    """Each asks for some rows, or for as many as it gets; some of their rows are computed in between."""
    held = [0] * 16
    for caller, rows, computed in steps:
        if computed:
            held[caller] -= min(rows, held[caller])
            continue
        queued = sum(held)
        share = share_rows(4096, queued, held[caller], contended=refused or queued > held[caller])
        held[caller] += max(min(rows, share - held[caller]), 0)
        assert sum(held) <= total_rows(4096)
    assert share_rows(4096, sum(held), 0, contended=True) >= 4


def test_sixteen_that_take_all_they_get_leave_room_for_another() -> None:
    held = [4096]
    while len(held) < 16:
        held.append(share_rows(4096, sum(held), 0, contended=True))
    assert share_rows(4096, sum(held), 0, contended=True) >= 4
    assert sum(held) <= 6144


def test_a_holding_ends_with_its_last_request() -> None:
    counted, forgotten = [0, 0], []

    def count(rows: int, requests: int) -> None:
        counted[0] += rows
        counted[1] += requests

    holding = Holding("a", count, forgotten.append)
    holding.count(3, 1)
    holding.count(4, 1)
    holding.count(-7, 0)
    assert (holding.rows, counted, forgotten) == (0, [0, 2], [])
    holding.count(0, -1)
    holding.count(0, -1)
    assert (counted, forgotten) == ([0, 0], ["a"])
