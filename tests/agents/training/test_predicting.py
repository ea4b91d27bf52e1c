"""``DQN.predict`` takes what envs give: raw observations of every space, batches of them, and action masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from torso.agents import DQN
from torso.errors import InputError, ModelDamagedError
from torso.nets import Predictor, read_card

SPACES = {
    "discrete": spaces.Discrete(4, start=2),
    "places": spaces.MultiDiscrete([3, 4]),
    "bits": spaces.MultiBinary((2, 3)),
    "number": spaces.Box(-1, 1, ()),
    "vector": spaces.Box(-1, 1, (3,)),
    "dict": spaces.Dict(at=spaces.Discrete(3), seen=spaces.Box(0, 1, (2,))),
    "tuple": spaces.Tuple([spaces.Discrete(5), spaces.Dict(a=spaces.MultiBinary(2))]),
}


class Shows(gym.Env[Any, Any]):
    """Shows samples of a space; actions count from 3."""

    def __init__(self, space: str) -> None:
        self.observation_space = SPACES[space]
        self.action_space = spaces.Discrete(3, start=3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert action in self.action_space
        return self.observation_space.sample(), 0.0, bool(self.np_random.random() < 0.3), False, {}


@pytest.mark.parametrize("name", SPACES)
def test_observations_of_every_space_alone_and_in_batches(name: str, tmp_path: Path) -> None:
    agent = DQN(Shows, env_kwargs={"space": name}, seed=3, min_replay_size=50, replay_capacity=500, hidden=(8,)).learn(
        60
    )
    env = Shows(name)
    seen = [env.reset(seed=1)[0], *(env.step(3)[0] for _ in range(8))]
    flat = [spaces.utils.flatten(env.observation_space, each) for each in seen]
    values = agent._require_predictor()
    expected = [int(action) for action in values.greedy(values.run(values.prepare(np.stack(flat))))]
    agent.save(tmp_path / "model")
    for each in (agent, DQN.load(tmp_path / "model", Shows, config=agent.config, wrappers=())):
        one = [each.predict(observation) for observation in seen]
        assert one == expected
        assert all(type(action) is int for action in one)
        assert [each.predict(row) for row in flat] == expected
        assert each.predict(np.stack(flat)).tolist() == each.predict(seen).tolist() == expected
    envs = gym.vector.SyncVectorEnv([lambda: Shows(name)] * 7)
    batch, _ = envs.reset(seed=2)
    actions = agent.predict(batch)
    assert actions.shape == (7,)
    inner = [gym.vector.utils.iterate(envs.observation_space, batch)]
    assert actions.tolist() == [agent.predict(each) for each in inner[0]]


def test_frozen_lake_blackjack_and_taxi_as_they_come(tmp_path: Path) -> None:
    settings = {"seed": 0, "min_replay_size": 20, "replay_capacity": 200, "hidden": (8,)}
    for name in ("FrozenLake-v1", "Blackjack-v1", "Taxi-v4" if "Taxi-v4" in gym.registry else "Taxi-v3"):
        agent = DQN(name, **settings).learn(30)
        env = gym.make(name)
        observation, info = env.reset(seed=0)
        for _ in range(5):
            action = agent.predict(observation, mask=info.get("action_mask"))
            assert info.get("action_mask") is None or info["action_mask"][action] == 1
            observation, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:
                observation, info = env.reset()
        assert agent.predict([observation, observation]).shape == (2,)
    agent.save(tmp_path / "taxi")
    taxi = json.loads((tmp_path / "taxi" / "model.json").read_text(encoding="utf-8"))
    assert taxi["observation_space"] == {
        "kind": "discrete",
        "shape": [],
        "dtype": "int64",
        "sizes": [500],
        "starts": [0],
    }
    assert Predictor.load(tmp_path / "taxi").act(7)[0].shape == (1,)


def test_masks() -> None:
    agent = DQN("FrozenLake-v1", seed=0, min_replay_size=20, replay_capacity=200, hidden=(8,)).learn(30)
    for only in range(4):
        mask = np.eye(4, dtype=np.int8)[only]
        for given in (mask, mask.tolist(), mask == 1):
            assert agent.predict(0, mask=given) == only
        assert agent.predict([5, 0], mask=[mask, np.ones(4)]).tolist() == [only, agent.predict(0)]
    for observation, mask, message in (
        (0, [1, 1, 1], r"mask must be bool \[1, 4\], True for legal actions, got bool \[1, 3\]"),
        (0, [[1, 1, 1, 1]], r"mask.shape must be \[actions\], for one observation, got \[1, 4\]"),
        ([0, 1], [1, 1, 1, 1], r"mask.shape must be \[batch, actions\]"),
        (0, [0, 0, 0, 0], "at least one action a row"),
        (0, [2, 1, 1, 1], "mask must be 0 or 1 an action, 1 where it is legal, got"),
    ):
        with pytest.raises(InputError, match=message):
            agent.predict(observation, mask=mask)
    with pytest.raises(InputError, match=r"whole numbers from 0 to 15, as .*, got 16"):
        agent.predict(16)
    with pytest.raises(InputError, match=r"must be int64 \[batch, 16\], got \[2, 3\]"):
        agent.predict([[1, 2, 3]] * 2)


def test_a_model_that_says_nothing_of_its_observations_learns_it_from_the_env(tmp_path: Path) -> None:
    DQN("FrozenLake-v1", seed=0, min_replay_size=20, replay_capacity=200, hidden=(8,)).learn(30).save(tmp_path / "old")
    path = tmp_path / "old" / "model.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    del card["observation_space"]
    path.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(InputError, match="shape must be"):
        Predictor.load(tmp_path / "old").act([5])
    agent = DQN.load(tmp_path / "old")
    assert type(agent.predict(5)) is int
    agent.save(tmp_path / "new")
    assert str(read_card(tmp_path / "new").observation_space) == "Discrete(16)"
    for space, message in (
        ({"kind": "discrete", "sizes": [15], "starts": [0]}, r"must flatten to inputs of shape \(16,\), got .* of 15"),
        ({"kind": "graph"}, "a space's kind must be one of"),
        ([16], "a space must be an object"),
    ):
        path.write_text(json.dumps({**card, "observation_space": space}), encoding="utf-8")
        with pytest.raises(ModelDamagedError, match=message):
            read_card(tmp_path / "old")
