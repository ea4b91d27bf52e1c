"""Loading a model for serving: backend, warm-up, latency measurements, inline rows."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torso.errors import ModelDamagedError
from torso.nets import Backend
from torso.nets.prediction.backend import Outputs
from torso.serve import ServeConfig
from torso.serve.backends.selection import equal_readouts, probe_batch
from torso.serve.models.begin_serving import choose_inline_rows, load_served_model
from torso.serve.models.served_model import ServedModel
from torso.serve.observability.metrics import ModelMetrics

Configure = Callable[..., ServeConfig]


class Slow:
    """A backend of a stated price: seconds a row, which it sleeps. It remembers its batches."""

    name = "slow"

    def __init__(self, backend: Backend, row_s: float) -> None:
        self.backend = backend
        self.row_s = row_s
        self.batches: list[int] = []

    def run(self, inputs: np.ndarray, *state: np.ndarray) -> Outputs:
        self.batches.append(len(inputs))
        time.sleep(self.row_s * len(inputs))
        return self.backend.run(inputs, *state)


def ask(model: ServedModel, rows: int) -> np.ndarray:
    async def scenario() -> np.ndarray:
        inputs = model.predictor.prepare(probe_batch(model.predictor.input, rows), strict=True)
        with model.batcher.admit(rows, "inputs") as admission:
            return await model.batcher.submit(inputs, admission)

    try:
        return asyncio.run(scenario())
    finally:
        model.batcher.close()


def test_a_loaded_model_is_told_of_and_answers(
    models: Any, config: Configure, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shutil.copytree(models.frames, tmp_path / "run" / "best")
    metrics = ModelMetrics()
    with caplog.at_level(logging.INFO, "torso"):
        model = load_served_model("pong", "3", tmp_path / "run", config(max_batch_rows=8), metrics)
    assert (model.name, model.version, model.directory) == ("pong", "3", tmp_path / "run" / "best")
    [line] = [record.getMessage() for record in caplog.records if "pong" in record.getMessage()]
    assert line.startswith("model pong version 3: policy, uint8 [4, 84, 84] -> 6 outputs, by onnx (")
    assert equal_readouts(ask(model, 5), model.predictor.run(probe_batch(model.predictor.input, 5)))
    assert model.metrics is metrics
    assert (metrics.rows, metrics.queued_rows, sum(metrics.queue.counts)) == (5, 0, 1)


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({1: 1e-5, 2: 1e-5, 4: 2e-5}, 4),
        ({1: 1e-4, 2: 2e-4, 4: 4e-4, 8: 8e-4}, 2),
        ({1: 1e-4, 2: 1.0, 4: 1e-4}, 1),
        ({1: 5e-3, 2: 9e-3}, 0),
        ({48: 2e-4, 1: 1e-4, 32: 1e-4}, 48),
    ],
)
def test_batches_are_inline_up_to_where_a_forward_is_too_long(seconds: dict[int, float], rows: int) -> None:
    assert choose_inline_rows(seconds) == rows


def test_a_slow_model_has_a_thread_and_every_batch_size_was_warmed_up(models: Any, config: Configure) -> None:
    slow: list[Slow] = []

    def wrap(name: str, backend: Backend) -> Backend:
        assert name == "cartpole"
        slow.append(Slow(backend, 2e-3))
        return slow[0]

    model = load_served_model("cartpole", "1", models.cartpole, config(max_batch_rows=6), ModelMetrics(), wrap)
    assert set(slow[0].batches) == {1, 2, 4, 6}
    assert model.batcher.inline_rows == 0
    assert not model.batcher.can_compute_now(1)
    assert model.predictor.backend is slow[0]
    model.batcher.close()


def test_a_backend_that_says_that_it_waits_is_never_inline(models: Any, config: Configure) -> None:
    def wrap(_name: str, backend: Backend) -> Backend:
        backend.inline = False  # type: ignore[attr-defined]
        return backend

    model = load_served_model("cartpole", "1", models.cartpole, config(), ModelMetrics(), wrap)
    assert model.batcher.inline_rows == 0
    assert not model.batcher.can_compute_now(1)
    model.batcher.close()


def test_a_short_forward_waits_for_no_others(models: Any, config: Configure) -> None:
    model = load_served_model("cartpole", "1", models.cartpole, config(), ModelMetrics())
    assert model.batcher.can_compute_now(1)


def test_settings_reach_the_batcher(models: Any, config: Configure) -> None:
    settings = config(max_batch_rows=5, max_queue_rows=77, max_delay_us=1234)
    batcher = load_served_model("cartpole", "1", models.cartpole, settings, ModelMetrics()).batcher
    assert (batcher.max_batch_rows, batcher.max_queue_rows, batcher.max_delay_us) == (5, 77, 1234)
    batcher.close()


def test_what_is_measured_refuses_what_has_no_hope(models: Any, config: Configure) -> None:
    from torso.errors import OverloadedError

    settings = config(max_batch_rows=1)
    model = load_served_model(
        "m", "1", models.cartpole, settings, ModelMetrics(), lambda _name, backend: Slow(backend, 0.02)
    )
    row = probe_batch(model.predictor.input, 1)

    async def request(left_s: float) -> np.ndarray:
        with model.batcher.admit(1, "inputs") as admission:
            return await model.batcher.submit(row, admission, time.monotonic() + left_s)

    async def scenario() -> None:
        fits, hopeless = await asyncio.gather(request(60), request(0.021), return_exceptions=True)
        assert isinstance(fits, np.ndarray)
        assert isinstance(hopeless, OverloadedError)

    asyncio.run(scenario())
    model.batcher.close()


def test_the_cache_and_the_backend_are_those_of_the_configuration(
    models: Any, config: Configure, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(models.plain, tmp_path / "m", ignore=shutil.ignore_patterns("*.onnx")))
    settings = {"max_batch_rows": 2, "cache_dir": tmp_path / "cache"}
    model = load_served_model("m", "1", directory, config(backend="onnx", **settings), ModelMetrics())
    assert model.predictor.backend.name == "onnx"
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert (
        load_served_model(
            "m", "1", directory, config(backend="torch", **settings), ModelMetrics()
        ).predictor.backend.name
        == "torch"
    )


def test_what_cannot_be_served_is_named(models: Any, config: Configure, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(models.plain, tmp_path / "broken"))
    (broken / "weights.safetensors").write_bytes(b"")
    with pytest.raises(ModelDamagedError, match="truncated or altered"):
        load_served_model("m", "1", broken, config(), ModelMetrics())
