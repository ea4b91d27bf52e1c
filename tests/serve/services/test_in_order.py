"""Concurrent answers to a stream's requests, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from torso.serve.services.in_order import in_order


async def count_to(number: int, taken: list[int] | None = None) -> AsyncIterator[int]:
    for value in range(number):
        if taken is not None:
            taken.append(value)
        yield value


def test_answers_come_in_order_whichever_is_ready_first() -> None:
    async def scenario() -> list[int]:
        released = [asyncio.Event() for _ in range(5)]

        async def answer(number: int) -> int:
            if number + 1 < len(released):
                await released[number + 1].wait()  # the last is ready first
            released[number].set()
            return number * 10

        return [value async for value in in_order(count_to(5), answer, max_concurrent=5)]

    assert asyncio.run(asyncio.wait_for(scenario(), 30)) == [0, 10, 20, 30, 40]


@pytest.mark.parametrize("max_concurrent", [1, 3])
def test_no_more_than_so_many_are_under_way_and_a_slow_reader_is_not_read_ahead(max_concurrent: int) -> None:
    async def scenario() -> None:
        taken: list[int] = []

        async def answer(number: int) -> int:
            return number

        answers = in_order(count_to(20, taken), answer, max_concurrent=max_concurrent)
        for expected in range(20):
            assert await anext(answers) == expected
            for _ in range(10):  # whoever reads is given every chance
                await asyncio.sleep(0)
            assert len(taken) == min(expected + max_concurrent, 20)
        assert [value async for value in answers] == []

    asyncio.run(scenario())


def test_what_is_under_way_ends_with_its_reader() -> None:
    async def scenario() -> None:
        cancelled: list[int] = []
        began = asyncio.Semaphore(0)

        async def answer(number: int) -> int:
            if number == 0:
                return number
            try:
                began.release()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
            return number

        answers = in_order(count_to(9), answer, max_concurrent=4)
        assert await anext(answers) == 0
        for _ in range(3):
            await began.acquire()
        await answers.aclose()
        assert sorted(cancelled) == [1, 2, 3]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


def test_a_fault_of_the_requests_or_of_an_answer_is_raised() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        raise OSError("the requests broke off")

    async def answer(number: int) -> int:
        return 1 // (number - 2)

    async def collected(requests: AsyncIterator[int]) -> list[int]:
        return [value async for value in in_order(requests, answer, max_concurrent=2)]

    with pytest.raises(OSError, match="broke off"):
        asyncio.run(collected(broken()))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(collected(count_to(4)))
