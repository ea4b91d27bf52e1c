"""Names of actions: those of each kind of env, and that they mean what they say."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from torso.envs import make_vector
from torso.envs.vector.action_names import action_names


@pytest.mark.parametrize(
    ("env", "kwargs", "expected"),
    [
        ("CartPole-v1", {}, ("LEFT", "RIGHT")),
        ("MountainCar-v0", {}, ("LEFT", "NOOP", "RIGHT")),
        ("torso/Forager-v0", {}, ("UP", "UPLEFT", "UPRIGHT", "LEFT", "RIGHT")),
        ("MinAtar/Breakout-v0", {}, ("NOOP", "LEFT", "UP", "RIGHT", "DOWN", "FIRE")),
        ("MinAtar/Breakout-v1", {}, ("NOOP", "LEFT", "RIGHT")),
        ("ALE/Pong-v5", {}, ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")),
        ("ALE/Breakout-v5", {}, ("NOOP", "FIRE", "RIGHT", "LEFT")),
        ("torso/Identity-v0", {}, ("0", "1", "2", "3")),
        ("FrozenLake-v1", {"is_slippery": False}, ("LEFT", "DOWN", "RIGHT", "UP")),
    ],
)
def test_names_of_known_envs(env: str, kwargs: dict[str, Any], expected: tuple[str, ...]) -> None:
    envs = make_vector(env, 1, [0], env_kwargs=kwargs)
    assert action_names(envs) == expected
    envs.close()


def test_all_actions_of_the_console_have_names() -> None:
    envs = make_vector("ALE/Pong-v5", 1, [0], env_kwargs={"full_action_space": True})
    names = action_names(envs)
    assert len(names) == 18
    assert names[:6] == ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN")
    envs.close()


class Meant(gym.Env[Any, Any]):
    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(2, start=3)

    def __init__(self, meanings: list[str]) -> None:
        self.meanings = meanings

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def get_action_meanings(self) -> list[str]:
        return self.meanings


def test_an_env_names_its_own_actions() -> None:
    assert action_names(make_vector(lambda: Meant(["WAIT", "GO"]), 1, [0])) == ("WAIT", "GO")
    assert action_names(make_vector(lambda: Meant(["of another action set"]), 1, [0])) == ("3", "4")


def test_forager_turns_as_its_actions_say() -> None:
    """Angles grow to the left, as the picture's y axis points up."""
    for name, sign in (("UPLEFT", 1), ("LEFT", 1), ("UPRIGHT", -1), ("RIGHT", -1), ("UP", 0)):
        envs: Any = make_vector("torso/Forager-v0", 1, [0])
        envs.reset()
        before = int(envs._world.heading[0])
        envs.step(np.array([action_names(envs).index(name)]))
        turned = (int(envs._world.heading[0]) - before + 180) % 360 - 180
        assert np.sign(turned) == sign, name
        envs.close()
