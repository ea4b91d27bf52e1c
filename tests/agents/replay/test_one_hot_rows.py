"""Compact rows of one-hot observations: the same bits as whole ones, in encoding, in a ring and in training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from torso.agents import DQN, DQNConfig, Training, World, train_run
from torso.agents.replay.one_hot import OneHotRows
from torso.agents.replay.ring import ReplayRing
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.session import Session
from torso.envs.vector.one_hot import is_binary, one_hot_places
from torso.errors import ConfigError, EnvError

CPU = torch.device("cpu")
SPACES: dict[str, tuple[spaces.Space, str, int]] = {
    "Discrete": (spaces.Discrete(5, start=-2), "uint8", 1),
    "300": (spaces.Discrete(300), "uint16", 1),
    "70,000": (spaces.Discrete(70_000), "uint32", 1),
    "MultiDiscrete": (spaces.MultiDiscrete([[2, 3], [1, 4]]), "uint8", 4),
    "MultiDiscrete with starts": (spaces.MultiDiscrete([3, 2], start=[5, -1]), "uint8", 2),
    "bits": (spaces.Tuple((spaces.MultiBinary(3), spaces.Discrete(4), spaces.MultiBinary(2))), "uint8", 6),
    "Dict": (spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Tuple((spaces.Discrete(2),))}), "uint8", 2),
    "floats": (spaces.Dict({"x": spaces.Box(-1, 1, (3,), np.float32), "at": spaces.Discrete(9)}), "float64", 4),
    "short floats": (
        spaces.Tuple((spaces.MultiDiscrete([200], dtype=np.uint8), spaces.Box(-1, 1, (2,), np.float16))),
        "float16",
        3,
    ),
    "short integers": (
        spaces.Tuple((spaces.MultiDiscrete([100], dtype=np.int8), spaces.Box(-9, 9, (2,), np.int8))),
        "int16",
        3,
    ),
    "unsigned": (
        spaces.Tuple((spaces.MultiDiscrete([300], dtype=np.uint16), spaces.Box(0, 2**16 - 1, (2,), np.uint16))),
        "uint16",
        3,
    ),
}


def samples(space: spaces.Space, count: int) -> list[Any]:
    space.seed(7)
    return [space.sample() for _ in range(count)]


@pytest.mark.parametrize(("space", "dtype", "width"), SPACES.values(), ids=list(SPACES))
def test_rows_come_back_as_they_were(space: spaces.Space, dtype: str, width: int) -> None:
    flat = spaces.flatten_space(space)
    rows = np.stack([spaces.flatten(space, each) for each in samples(space, 6)])
    made = OneHotRows(rows.shape[1], one_hot_places(space), dtype=flat.dtype, is_binary=is_binary(space), device=CPU)
    codes = made.encode(rows)
    assert (codes.dtype, codes.shape, made.width) == (np.dtype(dtype), (6, width), width)
    decoded = made.decode(torch.from_numpy(codes)).numpy()
    assert decoded.dtype == rows.dtype
    assert decoded.tobytes() == rows.tobytes()


def test_what_is_not_one_hot_is_refused() -> None:
    made = OneHotRows(4, [(0, 4)], dtype=np.dtype("int64"), is_binary=True, device=CPU)
    for row in ([0, 0, 0, 0], [1, 0, 1, 0]):
        with pytest.raises(EnvError, match=f"must be one-hot in 1 places, got {sum(row)} values in a row"):
            made.encode(np.array([row]))
    with pytest.raises(ConfigError, match=r"observations must be flattened where they are one-hot, got \[2, 4\]"):
        ReplayRing(capacity_steps=9, num_envs=1, shape=(2, 4), dtype="int64", one_hot_places=[(0, 4)])


class Moving(gym.Env):
    """Show a sample of a space at each step; the reward is the action's."""

    def __init__(self, space: spaces.Space) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: int) -> Any:
        self.time += 1
        return self.observation_space.sample(), float(action), self.time == 5, False, {}


def session(size: int, **settings: Any) -> Session:
    world = World(env=partial(Moving, spaces.Discrete(size)))
    return Session(world, DQNConfig(hidden=(4,), **settings), seed=0, device=CPU, precision="float32")


def test_five_thousand_values_take_two_bytes_of_a_step() -> None:
    replay = session(5_000).replay
    assert replay.capacity_rows == 100_000
    assert replay.num_bytes == 100_000 * (2 + 8 + 4 + 3)  # a place, an action, a reward, three flags
    assert session(200).replay.num_bytes == 100_000 * (1 + 8 + 4 + 3)


def test_a_wrapper_that_flattens_is_as_good() -> None:
    make = partial(Moving, spaces.Discrete(500))
    spec = World(env=make, wrappers=[gym.wrappers.FlattenObservation]).spec
    assert (spec.one_hot_places, spec.is_one_hot, spec.space) == (((0, 500),), True, None)


SETTINGS: dict[str, Any] = {
    "algorithm": "double",
    "prioritized": True,
    "n_step": 2,
    "num_envs": 2,
    "hidden": (8,),
    "batch_size": 8,
    "replay_capacity": 150,
    "min_replay_size": 40,
    "evaluation_period": 90,
    "evaluation_episodes": 2,
    "checkpoint_period": 120,
    "target_update_period": 30,
    "normalise_observations": True,
}
TRAINED = ("Discrete", "MultiDiscrete", "bits", "Dict", "floats")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Store observations whole, as torso did before."""
    monkeypatch.setattr("torso.envs.vector.world.one_hot_places", lambda space: ())
    return monkeypatch


def train(space: spaces.Space) -> tuple[Training, dict[str, torch.Tensor]]:
    training = Training(World(env=partial(Moving, space)), DQNConfig(**SETTINGS), seed=0)
    for _ in training.run(300):
        pass
    return training, training.session.learner.state()[1]


@pytest.mark.parametrize("name", TRAINED)
def test_training_gives_the_same_bits_as_with_whole_observations(name: str, whole: pytest.MonkeyPatch) -> None:
    space = SPACES[name][0]
    training, expected = train(space)
    whole.undo()
    compact, got = train(space)
    assert compact.session.replay.num_bytes < training.session.replay.num_bytes
    assert all(torch.equal(expected[each], got[each]) for each in expected)
    replay = training.session.replay
    row = torch.arange(replay.first_row, replay.num_rows - 3)
    env = torch.arange(len(row)) % 2
    for n_step in (1, 3):
        one, other = (
            each.session.replay.transitions(row, env, n_step=n_step, gamma=0.9) for each in (training, compact)
        )
        assert one.weight.sum() > 20
        assert torch.equal(one.s_tm1, other.s_tm1)
        assert torch.equal(one.s_t, other.s_t)
        assert one.s_t.dtype == other.s_t.dtype


def moving_dict() -> gym.Env:
    return Moving(SPACES["bits"][0])


@pytest.mark.parametrize("before", ["whole", "compact"])
def test_runs_resume_with_the_same_bits_also_those_that_stored_whole_observations(
    tmp_path: Path, whole: pytest.MonkeyPatch, before: str
) -> None:
    class KilledError(Exception):
        pass

    def run(out: Path, until: int = 10_000, *, resume: bool = False) -> None:
        def on_event(event: Any) -> None:
            if event.total_steps >= until:
                raise KilledError

        world = World(env=moving_dict)
        config = DQNConfig(**SETTINGS)
        train_run(world, config, total_steps=500, seed=5, out=out, resume=resume, on_event=on_event)

    if before == "compact":
        whole.undo()
    run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", 300)
    if before == "whole":
        whole.undo()
    with pytest.raises(KilledError):  # its checkpoint then has segments of both kinds
        run(tmp_path / "killed", 420, resume=True)
    run(tmp_path / "killed", resume=True)
    expected, got = (CheckpointStore(tmp_path / name / "checkpoint").load() for name in ("whole", "killed"))
    assert expected is not None
    assert got is not None
    assert got.state["parts"] == expected.state["parts"]
    assert all(torch.equal(expected.tensors[name], got.tensors[name]) for name in expected.tensors)
    agent = DQN.load(tmp_path / "killed", moving_dict)
    with RunDirectory.open(tmp_path / "killed") as directory:
        replay = Training(agent.world, agent.config, seed=agent.seed, run=directory).session.replay
    assert replay.read_rows(replay.first_row, replay.num_rows)["obs"].shape[-1] == 6
