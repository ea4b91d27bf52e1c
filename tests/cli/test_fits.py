"""A model and an env that do not fit: one EnvError wherever they meet, which says what each has."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from torso.agents import DQN, evaluate
from torso.envs.vector.world import World
from torso.errors import EnvError
from torso.nets import Predictor

Run = Callable[..., Any]
ENV = "FittedCounts-v0"


class Counts(gym.Env[Any, Any]):
    """Pays for each step; refuses an action that is none of its own, as a dictionary of actions would."""

    def __init__(self, *, n: int = 2, start: int = 0, sees: Any = 3, render_mode: str | None = None) -> None:
        known = {"flat": spaces.Box(0, 1, (3,)), "bytes": spaces.Box(0, 9, (3,), np.uint8), "places": [1, 2]}
        space = known.get(sees) if isinstance(sees, str) else spaces.Discrete(sees)
        self.observation_space = spaces.MultiDiscrete(space) if isinstance(space, list) else space
        self.action_space = spaces.Discrete(n, start=start)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        if action not in self.action_space:
            raise KeyError(action)
        self._steps += 1
        return self.observation_space.sample(), 1.0, self._steps == 3, False, {}


gym.register("FittedCounts-v0", Counts)

MISFITS: list[tuple[dict[str, Any], str]] = [
    ({"start": 5}, "2 actions from 0, the env has 2 from 5"),
    ({"n": 3}, "2 actions from 0, the env has 3 from 0"),
    ({"n": 1, "start": -1}, "2 actions from 0, the env has 1 from -1"),
    ({"sees": 4}, "observations.shape must be int64 [batch, 3], got [1, 4] of int64"),
    ({"sees": "flat"}, "observations.dtype must be int64, got float32"),
    ({"sees": "places"}, "observations must be of Discrete(3), got MultiDiscrete([1, 2])"),
]
FITS: list[dict[str, Any]] = [{}, {"sees": "bytes"}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = DQN(ENV, seed=0, min_replay_size=20, replay_capacity=200, hidden=(8,), evaluation_episodes=1)
    path = tmp_path_factory.mktemp("trained")
    agent.learn(30, out=path / "run")
    agent.save(path / "model")
    return path


@pytest.fixture(scope="module")
def address(trained: Path, start_for_module: Callable[..., Any]) -> Iterator[str]:
    port_file = trained / "port"
    server = start_for_module("serve", trained / "model", "--port", 0, "--port-file", port_file, "--drain-s", 0)
    end_s = time.monotonic() + 120
    while not port_file.exists():
        assert server.poll() is None, server.communicate()
        assert time.monotonic() < end_s, "the server is not ready"
        time.sleep(0.02)
    yield f"127.0.0.1:{port_file.read_text().strip()}"
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


@pytest.mark.parametrize(("kwargs", "message"), MISFITS)
def test_every_place_where_they_meet_says_so(
    kwargs: dict[str, Any], message: str, trained: Path, address: str, run: Run
) -> None:
    def make() -> Counts:
        return Counts(**kwargs)

    def refused(call: Callable[[], Any]) -> None:
        with pytest.raises(EnvError) as caught:
            call()
        assert message in str(caught.value)

    refused(lambda: DQN.load(trained / "model", make))
    refused(lambda: DQN.load(trained / "model", make()))
    refused(lambda: DQN.load(trained / "run", make))
    refused(lambda: evaluate(Predictor.load(trained / "model").act, World(env=make), [1]))
    refused(lambda: evaluate(Predictor.load(trained / "model").act, World(env=make()), [1]))
    env = ("--env", ENV, "--env-kwargs", json.dumps(kwargs))
    for command in (
        ("evaluate", trained / "model", *env),
        ("evaluate", trained / "run", *env),
        ("play", "--model", trained / "model", *env),
        ("play", "--model", "model", "--address", address, *env),
    ):
        answered = run(*command)
        assert answered.code == 2
        assert message in answered.error


@pytest.mark.parametrize("kwargs", FITS)
def test_those_that_fit_are_played(kwargs: dict[str, Any], trained: Path, address: str, run: Run) -> None:
    agent = DQN.load(trained / "model", lambda: Counts())
    assert agent.evaluate(2).returns == (3.0, 3.0)
    env = ("--env", ENV, "--env-kwargs", json.dumps(kwargs), "--episodes", 2, "--json")
    for command in (
        ("evaluate", trained / "model", *env),
        ("play", "--model", trained / "model", *env),
        ("play", "--model", "model", "--address", address, *env),
    ):
        assert json.loads(run(*command).out)["returns"] == [3.0, 3.0]


def test_a_flattened_space_fits_the_same_rows(trained: Path) -> None:
    flat = World(env=ENV, wrappers=[gym.wrappers.FlattenObservation])
    assert evaluate(Predictor.load(trained / "model").act, flat, [1]).returns == (3.0,)
