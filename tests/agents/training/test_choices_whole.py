"""A covering set of all choices, each from a killed training through resume, save and load to ONNX and a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from choices import Choice, combinations, described, is_legal, pairwise, settings_of

from torso.agents import DQN, DQNConfig, Training, World, train_run
from torso.errors import RunError
from torso.nets import Predictor, load, onnx_path
from torso.serve import Client, ServeConfig, create_server

CHOSEN = pairwise(choice for choice in combinations() if is_legal(choice))
WORLD = World(env="torso/Identity-v0")
STEPS, SEED = 260, 3
SMALL: dict[str, Any] = {
    "hidden": (8, 8),
    "batch_size": 8,
    "num_envs": 2,
    "min_replay_size": 60,
    "learn_period": 4,
    "target_update_period": 50,
    "epsilon_decay_steps": 150,
    "replay_capacity": 200,
    "evaluation_period": None,
    "checkpoint_period": 100,
    "log_period": 20,
    "precision": "float32",
    "device": "cpu",
}
SIZES: dict[str, dict[str, Any]] = {
    "scalar": {},
    "categorical": {"num_atoms": 11, "v_min": 0.0, "v_max": 10.0},
    "quantile": {"num_quantiles": 5},
    "implicit-quantile": {"num_fractions": 4, "num_cosines": 8},
}
OBS = np.concatenate([np.eye(4), np.random.default_rng(0).integers(4, size=(3, 4))]).astype(np.int64)


class KilledError(Exception):
    """Ends a training at once, as a kill does."""


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Serve a model in another thread; gives the address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        config = ServeConfig(models=(f"it={directory}",), port=0, drain_s=0.0)
        server = asyncio.run_coroutine_threadsafe(create_server(config), loop).result(60)
        yield server.address
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("choice", CHOSEN, ids=described)
def test_a_choice_from_a_kill_to_a_server(choice: Choice, tmp_path: Path) -> None:
    config = DQNConfig(**{**SMALL, **SIZES[choice["head"]], **settings_of(choice)})
    whole = Training(WORLD, config, seed=SEED)
    lines = [event.figures for event in whole.run(STEPS) if hasattr(event, "figures")]

    def kill(event: Any) -> None:
        if event.total_steps >= 230:
            raise KilledError

    run = tmp_path / "run"
    with pytest.raises(KilledError):
        train_run(WORLD, config, total_steps=STEPS, seed=SEED, out=run, on_event=kill)
    trained = train_run(WORLD, config, total_steps=STEPS, seed=SEED, out=run, resume=True)
    assert trained.summary is not None
    resumed = load(run).state_dict()
    expected = whole.session.learner.online.state_dict()
    assert set(resumed) == set(expected)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert whole.session.learner.num_updates > 20
    assert lines[-1]["loss"] is not None

    predictor = Predictor.load(run)
    values = predictor.run(OBS)
    assert values.shape == (7, 4)
    assert np.array_equal(values, predictor.run(OBS))  # nothing is drawn
    assert np.array_equal(values, whole.predictor().run(OBS))
    path = onnx_path(run / "model")
    assert path is not None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"obs": OBS})[0], values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(session.run(None, {"obs": OBS[:1]})[0], values[:1], rtol=1e-4, atol=1e-5)

    agent = DQN.load(run)
    assert agent.config == config
    agent.save(tmp_path / "saved")
    again = DQN.load(tmp_path / "saved")
    assert again.config == config
    assert again.predict(OBS[:4]).tolist() == predictor.act(OBS[:4])[0].tolist()
    with serving(tmp_path / "saved") as address, Client(address) as client:
        served = client.act("it", OBS)
    np.testing.assert_allclose(served.values, values, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_refuses_another_exploration(tmp_path: Path) -> None:
    config = DQNConfig(**{**SMALL, "noisy": True})
    train_run(WORLD, config, total_steps=60, seed=SEED, out=tmp_path / "run")
    for changed in ({"exploration": "boltzmann"}, {"noisy_std": 0.1}):
        other = replace(config, **changed)
        with pytest.raises(RunError, match=next(iter(changed))):
            train_run(WORLD, other, total_steps=90, seed=SEED, out=tmp_path / "run", resume=True)
