"""Executors: what a captured call does, in which order, and the same numbers as without a capture.

A capture itself needs a GPU. Without one, `Replays` stands for it: it runs the work again at each replay, into the
tensors of the first one, so that all around it is tested here. The tests at the end capture CUDA graphs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from torso.agents import DQNConfig, PQNConfig, World, train_run
from torso.agents.optim import graphs
from torso.agents.optim.executors import EagerExecutor, make_executor, resolve_executor
from torso.agents.optim.graphs import WARM_UPS, CudaCapture, GraphExecutor
from torso.agents.protocols import Executor
from torso.agents.replay.batches import Batch
from torso.agents.replay.rollout import RolloutBatch
from torso.agents.value_based.algorithms import algorithm_names
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import q_network_spec
from torso.agents.value_based.on_policy import PQNLearner
from torso.errors import ConfigError
from torso.nets import InputSpec, build_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ACTIONS = 3
INPUTS = {
    "mlp": InputSpec(shape=(5,)),
    "nature": InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255),
}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


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


class Replays:
    """Capture that runs the work at each replay, and hands out the tensors of the first replay each time."""

    def __init__(self, problem: str | None = None) -> None:
        self.problem = problem
        self.log: list[str] = []
        self.generators: tuple[torch.Generator, ...] = ()

    def warm_up(self, work: Callable[[], Any]) -> Any:
        self.log.append("warm-up")
        return work()

    def record(self, work: Callable[[], Any], generators: Sequence[torch.Generator]) -> Callable[[], Any]:
        self.log.append("record")
        self.generators = tuple(generators)
        if self.problem is not None:
            raise RuntimeError(self.problem)
        kept: list[Any] = []

        def replay() -> Any:
            self.log.append("replay")
            outputs = work()
            if not kept:
                kept.append(outputs)
            graphs._copy_tensors(kept[0], outputs)
            return kept[0]

        return replay


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


# -- learners ----------------------------------------------------------------------------------------------------------


def dqn(executor: Executor | None, device: torch.device = CPU, net: str = "mlp", **settings: Any) -> DQNLearner:
    given = {"hidden": (16,), "batch_size": 8, "target_update_period": 5, "adam_eps": 1e-3, **settings}
    config = DQNConfig(net=net, **given)
    network = build_network(q_network_spec(config, INPUTS[net], ACTIONS), torch.Generator().manual_seed(0))
    return DQNLearner(
        config,
        network,
        device=device,
        precision=settings.get("precision", "float32"),
        generator=torch.Generator(device).manual_seed(1),
        executor=executor,
    )


def pqn(executor: Executor | None, device: torch.device = CPU, net: str = "mlp", **settings: Any) -> PQNLearner:
    given = {"hidden": (16,), "num_envs": 2, "rollout_steps": 8, "num_minibatches": 2, **settings}
    config = PQNConfig(net=net, **given)
    network = build_network(q_network_spec(config, INPUTS[net], ACTIONS), torch.Generator().manual_seed(0))
    return PQNLearner(
        config,
        network,
        device=device,
        precision="float32",
        generator=torch.Generator(device).manual_seed(1),
        executor=executor,
    )


def observations(shape: tuple[int, ...], net: str, generator: torch.Generator) -> Tensor:
    size = (*shape, *INPUTS[net].shape)
    if net == "nature":
        return torch.randint(256, size, generator=generator, dtype=torch.uint8)
    return torch.randn(size, generator=generator)


def transitions(seed: int, device: torch.device, net: str, *, masks: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    number = 8
    mask_t, mask_tm1 = (torch.rand(number, ACTIONS, generator=generator) < 0.7 for _ in range(2))
    for mask in (mask_t, mask_tm1):
        mask[:, 0] = True
    batch = Batch(
        s_tm1=observations((number,), net, generator),
        a_tm1=torch.zeros(number, dtype=torch.int64),
        r_t=torch.randn(number, generator=generator),
        discount_t=0.9 * (torch.rand(number, generator=generator) < 0.8),
        s_t=observations((number,), net, generator),
        weight=torch.rand(number, generator=generator),
        mask_t=mask_t if masks else None,
        mask_tm1=mask_tm1 if masks else None,
    )
    return Batch(*(None if each is None else each.to(device) for each in batch))


def rollout(seed: int, device: torch.device, net: str) -> RolloutBatch:
    generator = torch.Generator().manual_seed(seed)
    steps, envs = 8, 2
    batch = RolloutBatch(
        obs=observations((steps, envs), net, generator),
        action=torch.randint(ACTIONS, (steps, envs), generator=generator),
        reward=torch.randn(steps, envs, generator=generator),
        terminated=torch.rand(steps, envs, generator=generator) < 0.1,
        is_reset=torch.rand(steps, envs, generator=generator) < 0.1,
        last_obs=observations((envs,), net, generator),
        mask=None,
        values=None,
    )
    return RolloutBatch(*(None if each is None else each.to(device) for each in batch))


def trained(
    learner: DQNLearner, updates: range, device: torch.device = CPU, net: str = "mlp", **masks: bool
) -> dict[str, Any]:
    """Take updates with the target copies that fall between them; return all that they leave."""
    for number in updates:
        learner.advance(number, number)
        update = learner.update(transitions(number, device, net, **masks))
    return {
        "online": learner.online.state_dict(),
        "target": learner.target.state_dict(),
        "priority": update.priority,
        "metrics": dict(update.metrics),
        "generator": learner.generator.get_state(),
    }


def require_close(got: Any, expected: Any, tolerance: float) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", algorithm_names())
def test_a_learner_updates_the_same_through_buffers(name: str) -> None:
    capture = Replays()
    settings = {"algorithm": name, "noisy": True, "exploration": "noisy", "learning_rate_end": 1e-5}
    captured, eager = (dqn(each, **settings) for each in (GraphExecutor(CPU, capture), None))
    masks = {"masks": True}
    require_close(trained(captured, range(20), **masks), trained(eager, range(20), **masks), 0.0)
    assert capture.log == ["warm-up"] * WARM_UPS + ["record"] + ["replay"] * (20 - WARM_UPS)
    assert capture.generators == (captured.generator,)


def test_pqn_updates_the_same_through_buffers() -> None:
    capture = Replays()
    captured, eager = (pqn(each) for each in (GraphExecutor(CPU, capture), None))
    for number in range(5):
        updates = [learner.update(rollout(number, CPU, "mlp")) for learner in (captured, eager)]
        require_close(updates[0].metrics, updates[1].metrics, 0.0)
    require_close(captured.online.state_dict(), eager.online.state_dict(), 0.0)
    assert capture.log == ["warm-up"] * WARM_UPS + ["record"] + ["replay"] * (5 * 2 * 2 - WARM_UPS)


def test_a_restored_learner_is_captured_anew() -> None:
    """The optimizer's moments have other memory then, which a graph of before would not know of."""
    capture = Replays()
    captured, eager = (dqn(each) for each in (GraphExecutor(CPU, capture), None))
    for learner in (captured, eager):
        trained(learner, range(6))
        learner.restore(*learner.state())
    require_close(trained(captured, range(6, 12)), trained(eager, range(6, 12)), 0.0)
    assert capture.log.count("record") == 2


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


# -- CUDA graphs themselves --------------------------------------------------------------------------------------------


class Uncaptured(EagerExecutor):
    """The eager executor with all that a captured update has: its optimizer, and targets within the call."""

    captures = True


@pytest.fixture
def one_kernel_each() -> Iterator[None]:
    """Full float32 and deterministic convolutions, so that only what a graph changes can differ."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def require_captured(records: list[logging.LogRecord]) -> None:
    assert [record.getMessage() for record in records if "CUDA graph" in record.getMessage()] == []


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize("net", INPUTS)
@pytest.mark.parametrize("name", algorithm_names())
def test_a_graph_learns_what_eager_updates_learn(name: str, net: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"algorithm": name, "learning_rate_end": 1e-5, "learning_rate_decay_steps": 20}
    captured, eager = (dqn(each, CUDA, net, **settings) for each in (GraphExecutor(CUDA), None))
    require_close(trained(captured, range(20), CUDA, net), trained(eager, range(20), CUDA, net), 1e-5)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize(
    "settings",
    [
        {"noisy": True, "exploration": "noisy"},
        {"max_grad_norm": None},
        {"max_grad_norm": 1e-3},
        {"target_update_rate": 0.01},
        {"hidden": (1024, 1024)},  # more parameters than are stepped as one tensor
        {"layer_norm": True, "activation": "gelu"},
    ],
    ids=["noisy", "any norm", "small norms", "slow target", "many parameters", "layer norm"],
)
def test_a_graph_learns_the_same_with_settings(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    captured, eager = (dqn(each, CUDA, **settings) for each in (GraphExecutor(CUDA), None))
    masks = {"masks": True}
    require_close(trained(captured, range(20), CUDA, **masks), trained(eager, range(20), CUDA, **masks), 1e-5)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
def test_a_graph_learns_the_same_in_bfloat16(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"precision": "bfloat16", "hidden": (512,)}
    captured, eager = (dqn(each, CUDA, "nature", **settings) for each in (GraphExecutor(CUDA), Uncaptured()))
    require_close(trained(captured, range(20), CUDA, "nature"), trained(eager, range(20), CUDA, "nature"), 1e-3)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize("net", INPUTS)
def test_a_graph_of_pqn_learns_what_eager_updates_learn(net: str, caplog: pytest.LogCaptureFixture) -> None:
    """Both with RAdam's capturable form, which rounds its rates on the device."""
    settings = {"learning_rate_end": 1e-5, "learning_rate_decay_steps": 5}
    captured, eager = (pqn(each, CUDA, net, **settings) for each in (GraphExecutor(CUDA), Uncaptured()))
    for number in range(5):  # 20 updates
        for learner in (captured, eager):
            learner.update(rollout(number, CUDA, net))
            learner.advance(number, number)
    require_close(captured.online.state_dict(), eager.online.state_dict(), 1e-5)
    require_captured(caplog.records)


@needs_cuda
@pytest.mark.usefixtures("one_kernel_each")
@pytest.mark.parametrize("name", ["dqn", "rainbow"])
def test_a_graph_goes_on_after_a_restore(name: str) -> None:
    whole, first, second = (dqn(GraphExecutor(CUDA), CUDA, algorithm=name) for _ in range(3))
    expected = trained(whole, range(20), CUDA)
    trained(first, range(10), CUDA)
    second.restore(*first.state())
    require_close(trained(second, range(10, 20), CUDA), expected, 1e-5)


@needs_cuda
def test_what_cannot_be_captured_is_learnt_eagerly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = dqn(GraphExecutor(CUDA), CUDA, algorithm="iqn")  # which draws: its generator must stay of use
    loss = learner.head.loss

    def waiting(*arguments: Any) -> Any:
        losses, priority = loss(*arguments)
        return losses * (1.0 if losses.sum().item() >= 0 else 0.0), priority

    monkeypatch.setattr(learner.head, "loss", waiting)
    result = trained(learner, range(10), CUDA)
    assert "could be captured" in caplog.text
    require_close(result, trained(dqn(None, CUDA, algorithm="iqn"), range(10), CUDA), 1e-5)


@needs_cuda
@pytest.mark.parametrize("config", [DQNConfig, PQNConfig])
def test_a_training_on_cuda_captures_its_updates(
    config: type[DQNConfig] | type[PQNConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"hidden": (16,), "device": "cuda", "evaluation_period": None}
    if config is DQNConfig:
        settings |= {"min_replay_size": 50}
    train_run(World(env="torso/Identity-v0"), config(**settings), total_steps=2_048, seed=0, out=tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["resolved"]["executor"] == "graph"
    require_captured(caplog.records)
