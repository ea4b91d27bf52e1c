"""Executors: what a captured call does, in which order, and the same numbers as without a capture.

A capture itself needs a GPU. Without one, `Replays` stands for it, so that all around it is tested here;
``value_based/test_captured_updates.py`` captures CUDA graphs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from replays import Replays
from torch import Tensor

from torso.agents import DQNConfig, PQNConfig, World, train_run
from torso.agents.optim import graphs
from torso.agents.optim.executors import EagerExecutor, make_executor, resolve_executor
from torso.agents.optim.graphs import WARM_UPS, CudaCapture, GraphExecutor
from torso.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Inner(NamedTuple):
    number: Tensor
    absent: Tensor | None


class Rows(NamedTuple):
    value: Tensor
    inner: Inner
    mask: Tensor | None = None


class Sums(NamedTuple):
    total: Tensor
    inner: Inner


def rows(number: float, size: int = 2, *, mask: Tensor | None = None) -> Rows:
    return Rows(torch.full((size,), number), Inner(torch.tensor(number), None), mask)


class Summing:
    """A call that counts itself, and sums what it is given."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, batch: Rows) -> Sums:
        self.calls += 1
        return Sums(batch.value.sum() + batch.inner.number, Inner(2 * batch.inner.number, batch.inner.absent))


def prepared(capture: Replays, call: Summing) -> Callable[[Rows], Sums]:
    return GraphExecutor(CPU, capture).prepare(call, rows(0.0), ())


# -- control flow ------------------------------------------------------------------------------------------------------


def test_the_first_updates_are_the_warm_up_and_none_runs_twice() -> None:
    capture, call = Replays(), Summing()
    run = prepared(capture, call)
    for number in range(1, WARM_UPS + 4):
        result = run(rows(float(number)))
        assert result == Sums(torch.tensor(3.0 * number), Inner(torch.tensor(2.0 * number), None))
        assert call.calls == number
    assert capture.log == ["warm-up"] * WARM_UPS + ["record"] + ["replay"] * 3


def test_the_next_call_overwrites_no_output() -> None:
    run = prepared(Replays(), Summing())
    results = [run(rows(float(number))) for number in range(WARM_UPS + 3)]
    assert [result.total.item() for result in results] == [3.0 * number for number in range(WARM_UPS + 3)]
    assert [result.inner.number.item() for result in results] == [2.0 * number for number in range(WARM_UPS + 3)]
    assert all(type(result) is Sums and type(result.inner) is Inner for result in results)


def test_a_caller_may_overwrite_its_minibatch() -> None:
    run = prepared(Replays(), Summing())
    batch = rows(1.0)
    for number in range(1, WARM_UPS + 4):
        batch.value.fill_(number)
        batch.inner.number.fill_(number)
        assert run(batch).total.item() == 3.0 * number


@pytest.mark.parametrize(
    "other",
    [
        rows(1.0, size=3),
        rows(1.0, mask=torch.ones(2)),
        rows(1.0)._replace(value=torch.ones(2, dtype=torch.float64)),
        rows(1.0)._replace(inner=Inner(torch.tensor(1.0), torch.zeros(()))),
    ],
    ids=["another shape", "a mask", "another dtype", "a tensor within"],
)
def test_a_minibatch_of_another_form_runs_as_it_stands(other: Rows) -> None:
    capture, call = Replays(), Summing()
    run = prepared(capture, call)
    for _ in range(WARM_UPS + 1):
        run(rows(1.0))
    log = list(capture.log)
    assert run(other).total == call(other).total
    assert capture.log == log
    assert run(rows(2.0)).total == 6.0
    assert capture.log == [*log, "replay"]


def test_a_failed_capture_is_logged_with_its_reason_and_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    capture, call = Replays("operation not permitted when stream is capturing"), Summing()
    run = prepared(capture, call)
    with caplog.at_level(logging.WARNING):
        totals = [run(rows(float(number))).total.item() for number in range(WARM_UPS + 4)]
    assert totals == [3.0 * number for number in range(WARM_UPS + 4)]
    assert call.calls == WARM_UPS + 4
    assert capture.log == ["warm-up"] * WARM_UPS + ["record"]
    [record] = caplog.records
    assert record.getMessage() == (
        "updates run without a CUDA graph, since none could be captured: operation not permitted when stream is "
        "capturing"
    )


def test_other_errors_are_the_callers() -> None:
    def failing(batch: Rows) -> Sums:
        raise ValueError("no such action")

    run = GraphExecutor(CPU, Replays()).prepare(failing, rows(0.0), ())
    with pytest.raises(ValueError, match="no such action"):
        run(rows(0.0))


class FakeCuda:
    """torch.cuda's parts of a capture, which note what is done; entering the capture's block fails where it is told."""

    def __init__(self, patch: pytest.MonkeyPatch, *, fails: bool) -> None:
        self.log: list[str] = []
        self.stream_now = "main"
        log = self.log

        class Stream:
            def __init__(self, name: Any) -> None:
                self.name = "side" if name is CPU else name

            def wait_stream(self, other: Any) -> None:
                log.append(f"{self.name} waits for {other.name}")

        class Graph:
            def register_generator_state(self, generator: Any) -> None:
                log.append("register")

            def replay(self) -> None:
                log.append("replay")

        @contextmanager
        def stream(chosen: Any) -> Iterator[None]:
            before, self.stream_now = self.stream_now, chosen.name
            has_failed = True
            try:
                yield
                has_failed = False
            finally:
                self.stream_now = before
                log.append(f"back to {before}" + (" after a failure" if has_failed else ""))

        @contextmanager
        def graph(_graph: Any, **settings: Any) -> Iterator[None]:
            log.append(f"begin on {settings['stream'].name}, {settings['capture_error_mode']}")
            yield
            if fails:
                self.stream_now = "lost"  # torch's block does not return to the stream of before
                raise RuntimeError("capture invalidated")
            log.append("end")

        for name, fake in {"Stream": Stream, "CUDAGraph": Graph, "stream": stream, "graph": graph}.items():
            patch.setattr(torch.cuda, name, fake)
        patch.setattr(torch.cuda, "current_stream", lambda _device: Stream("main"))


class FakeGenerator:
    def __init__(self) -> None:
        self.states: list[Any] = []

    def clone_state(self) -> str:
        return "as before"

    def graphsafe_set_state(self, state: Any) -> None:
        self.states.append(state)


def test_the_order_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, generator = FakeCuda(monkeypatch, fails=False), FakeGenerator()
    capture = CudaCapture(CPU)
    assert capture.warm_up(lambda: cuda.stream_now) == "side"
    replay = capture.record(lambda: cuda.stream_now, [generator])  # type: ignore[list-item]
    assert replay() == "side"
    assert cuda.log == [
        *("side waits for main", "back to main", "main waits for side"),
        *("register", "begin on side, thread_local", "end", "back to main", "replay"),
    ]
    assert generator.states == []


def test_a_failed_capture_gives_back_generators_and_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, generator = FakeCuda(monkeypatch, fails=True), FakeGenerator()
    monkeypatch.setattr(graphs, "_failed", [])
    capture = CudaCapture(CPU)
    with pytest.raises(RuntimeError, match="invalidated"):
        capture.record(lambda: None, [generator])  # type: ignore[list-item]
    assert len(graphs._failed) == 1
    assert generator.states == ["as before"]
    assert cuda.stream_now == "main"
    assert graphs._capturing.acquire(blocking=False)
    graphs._capturing.release()


# -- the setting -------------------------------------------------------------------------------------------------------


def test_auto_is_a_graph_on_cuda_alone() -> None:
    assert [resolve_executor("auto", torch.device(name)) for name in ("cpu", "cuda", "cuda:1")] == [
        *("eager", "graph", "graph")
    ]
    assert resolve_executor("eager", CUDA) == "eager"
    assert resolve_executor("graph", CUDA) == "graph"
    assert isinstance(make_executor("eager", CPU), EagerExecutor)


def test_a_graph_on_the_cpu_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = DQNConfig(executor="graph", device="cpu")
    with pytest.raises(ConfigError, match="executor must be auto or eager on device cpu"):
        train_run(World(env="torso/Identity-v0"), config, total_steps=10, seed=0, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="executor must be"):
        resolve_executor("jit", CPU)


@pytest.mark.parametrize("config", [DQNConfig(), PQNConfig()], ids=["dqn", "pqn"])
def test_a_run_of_before_goes_on_eagerly(config: DQNConfig | PQNConfig, tmp_path: Path) -> None:
    small = {"hidden": (4,), "evaluation_period": None, "device": "cpu"}
    config = type(config)(algorithm=config.algorithm, **small)  # type: ignore[arg-type]
    world, out = World(env="torso/Identity-v0"), tmp_path / "run"
    train_run(world, config, total_steps=64, seed=0, out=out)
    recorded = json.loads((out / "config.json").read_text())
    assert recorded["resolved"].pop("executor") == "eager"
    assert recorded["settings"].pop("executor") == "auto"
    (out / "config.json").write_text(json.dumps(recorded))
    resumed = train_run(world, config, total_steps=128, seed=0, out=out, resume=True)
    assert resumed.total_steps >= 128
    assert "executor" not in json.loads((out / "config.json").read_text())["resolved"]
