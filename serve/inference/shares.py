"""Shares of a queue's room: how many rows one limited caller may hold, so that every other finds room."""

from __future__ import annotations

from collections.abc import Callable


def total_rows(max_rows: int) -> int:
    """Return the most rows that a queue of ``max_rows`` holds where some of its callers are limited."""
    return max_rows + max_rows // 2


def share_rows(max_rows: int, queued: int, held: int, *, contended: bool) -> int:
    """Return how many rows a limited caller may hold in all, where ``queued`` are and ``held`` of these are its own.

    A caller that is alone may hold ``max_rows``. Where others wait, or found no room (``contended``), it may hold

    - half of ``max_rows``, while all rows together are no more than ``max_rows``; or,
    - with its first request, ``max_rows``, while all together are no more than 11/8 of ``max_rows``; or
    - an eighth of what is free of `total_rows`, so that each of many greedy callers leaves room for the next.
    """
    if not contended:
        return max_rows
    most, of_all = (max_rows // 2, max_rows) if held else (max_rows, max_rows * 11 // 8)
    free = total_rows(max_rows) - queued
    return max(min(most, held + of_all - queued), -(-free // 8))  # the eighth rounded up


class Holding:
    """Rows that one limited caller holds in a queue, while any of its requests is admitted.

    ``count`` is a queue's, ``forget(caller)`` is called once the last of its requests has ended.
    """

    __slots__ = ("_caller", "_count", "_forget", "_requests", "rows")

    def __init__(self, caller: str, count: Callable[[int, int], None], forget: Callable[[str], object]) -> None:
        self.rows = 0
        self._requests = 0
        self._caller = caller
        self._count = count
        self._forget = forget

    def count(self, rows: int, requests: int) -> None:
        """Add to the counts of rows and requests, the caller's and the queue's."""
        self.rows += rows
        self._requests += requests
        if not self._requests:
            self._forget(self._caller)
        self._count(rows, requests)
