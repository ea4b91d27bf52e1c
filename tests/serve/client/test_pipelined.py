"""Pipelining: inputs split into requests, several in flight, results in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torso.errors import ConfigError, InputError, InvalidRequestError
from torso.nets import Predictor
from torso.serve import AsyncClient, Client
from torso.serve.client.pipelined import chunked, pipelined, pipelined_async


@given(count=st.integers(0, 40), rows=st.integers(1, 12), as_array=st.booleans())
def test_cut_loses_and_repeats_nothing(count: int, rows: int, as_array: bool) -> None:
    inputs = np.arange(count * 3).reshape(count, 3)
    pieces = list(chunked(inputs if as_array else iter(inputs.tolist()), rows, "tensor"))
    assert all(len(piece) == rows for piece in pieces[:-1])
    assert np.array_equal(np.concatenate([np.empty((0, 3), int), *pieces]), inputs)
    assert all(len(piece) for piece in pieces)


def test_what_cannot_be_cut_is_an_input_error() -> None:
    with pytest.raises(InputError, match="tensor must be an array"):
        list(chunked(np.array(3.0), 2, "tensor"))
    with pytest.raises(InputError, match="inputs of one shape"):
        list(chunked([[1, 2], [3]], 2, "tensor"))


def test_answers_come_in_order_whichever_is_ready_first() -> None:
    later = threading.Event()

    def ask(piece: Any) -> int:
        if piece[0] == 0:
            assert later.wait(30)  # until the second was asked: both are under way at once
        if piece[0] == 1:
            later.set()
        return int(piece[0])

    assert list(pipelined(chunked(np.arange(5), 1, "x"), ask, 2)) == [0, 1, 2, 3, 4]


def test_at_most_so_many_are_ahead_and_inputs_are_read_no_further() -> None:
    read: list[int] = []

    def inputs() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    answers = pipelined(chunked(inputs(), 2, "x"), lambda piece: piece.tolist(), 3)
    assert next(answers) == [0, 1]
    assert len(read) == 6
    assert next(answers) == [2, 3]
    assert len(read) == 8
    answers.close()  # type: ignore[attr-defined]
    assert len(read) == 8

    async def scenario() -> None:
        read.clear()
        cancelled: list[int] = []

        async def ask(piece: Any) -> list[int]:
            try:
                await asyncio.sleep(0 if piece[0] == 0 else 3600)
            except asyncio.CancelledError:
                cancelled.append(int(piece[0]))
                raise
            return piece.tolist()  # type: ignore[no-any-return]

        answers = pipelined_async(chunked(inputs(), 2, "x"), ask, 3)
        assert await anext(answers) == [0, 1]
        assert len(read) == 6
        await answers.aclose()  # type: ignore[attr-defined]
        assert cancelled == [2, 4]

    asyncio.run(scenario())


def test_both_clients_label_many(models: Any, served: Any) -> None:
    scans = np.random.default_rng(5).integers(0, 17, size=(23, 8, 8)).astype(np.uint8)
    expected = Predictor.load(models.digits).classify(scans, top_k=2).indices
    states = np.random.default_rng(6).normal(size=(9, 4))
    with Client(served.address, connections=2) as client:
        for inputs in (scans, list(scans), (scan.tolist() for scan in scans), scans.reshape(23, 64)):
            results = list(client.classify_many("digits", inputs, top_k=2, rows=5, in_flight=3))
            assert [len(result.labels) for result in results] == [5, 5, 5, 5, 3]
            assert np.array_equal(np.concatenate([result.indices for result in results]), expected)
        acts = list(client.act_many("cartpole", states, rows=4))
        actions = client.act("cartpole", states).actions
        assert np.array_equal(np.concatenate([act.actions for act in acts]), actions)
        assert list(client.classify_many("digits", [])) == []
        with pytest.raises(ConfigError, match="rows must be at least 1, got 0"):
            client.classify_many("digits", scans, rows=0)
        with pytest.raises(ConfigError, match="in_flight"):
            client.act_many("cartpole", states, in_flight=0)
        results_until_it_fails = client.classify_many("digits", [*scans[:5], *([np.zeros(3)] * 5)], rows=5)
        assert np.array_equal(next(results_until_it_fails).indices, expected[:5, :1])
        with pytest.raises(InvalidRequestError, match="shape"):
            next(results_until_it_fails)

    async def scenario() -> None:
        async with AsyncClient(served.address, connections=2) as client:
            results = [each async for each in client.classify_many("digits", scans, top_k=2, rows=5, in_flight=3)]
            assert np.array_equal(np.concatenate([result.indices for result in results]), expected)
            acts = [each.actions async for each in client.act_many("cartpole", iter(states), rows=4)]
            assert np.array_equal(np.concatenate(acts), actions)

    asyncio.run(scenario())
