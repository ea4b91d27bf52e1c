"""World: names, ownership of constructed envs, and the interface read for a network."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from diary import Diary, DiaryEnv

from torso.envs import IdentityEnv
from torso.envs.vector.world import World, recorded_world
from torso.errors import ConfigError, EnvError


class Camera(gym.Env):
    """Observes one image of the given shape and dtype."""

    def __init__(self, shape: tuple[int, ...], dtype: str = "uint8") -> None:
        self.observation_space = gym.spaces.Box(0, 255, shape, np.dtype(dtype).type)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(self.observation_space.shape, self.observation_space.dtype), {}


def make_identity(**kwargs: Any) -> IdentityEnv:
    return IdentityEnv(**kwargs)


class Maker:
    def __call__(self) -> IdentityEnv:
        return IdentityEnv()


def test_names_are_the_same_in_every_process() -> None:
    here = make_identity.__module__
    assert World(env="CartPole-v1").name == "CartPole-v1"
    assert World(env=IdentityEnv).name == "torso.envs.games.identity:IdentityEnv"
    assert World(env=make_identity).name == f"{here}:make_identity"
    assert World(env=partial(partial(make_identity), num_values=3)).name == f"{here}:make_identity"  # no address
    assert World(env=Maker()).name == f"{here}:Maker"
    assert World(env=IdentityEnv()).name == "torso.envs.games.identity:IdentityEnv"
    wrappers = [gym.wrappers.FlattenObservation, partial(gym.wrappers.TimeLimit, max_episode_steps=3)]
    assert [name.rpartition(":")[2] for name in World(env="CartPole-v1", wrappers=wrappers).wrapper_names] == [
        "FlattenObservation",
        "TimeLimit(...)",  # which the name alone does not give back
    ]


def test_a_constructed_env_is_called_by_its_id_where_the_id_makes_such_a_one() -> None:
    assert World(env=gym.make("CartPole-v1")).name == "CartPole-v1"
    assert World(env=gym.make("CartPole-v1", render_mode="rgb_array")).name == "CartPole-v1"
    others = [
        gym.make("CartPole-v1", max_episode_steps=9),
        gym.make("CartPole-v1", sutton_barto_reward=True),
        gym.wrappers.TransformReward(gym.make("CartPole-v1"), lambda reward: -reward),
    ]
    assert {World(env=env).name.rpartition(":")[2] for env in others} == {"CartPoleEnv"}


def test_a_constructed_env_is_never_closed() -> None:
    diary = Diary()
    world = World(env=DiaryEnv(diary))
    assert world.spec.num_actions == 3
    envs = world.make([4])
    envs.reset()
    envs.close()
    assert diary.resets == [0, 4]  # the first to see what its infos hold
    assert diary.closed == 0
    assert World(env=lambda: DiaryEnv(diary)).spec.num_actions == 3
    assert diary.closed == 1


def test_the_spec_says_what_a_network_reads_and_how_actions_are_counted() -> None:
    env = World(env="torso/Identity-v0", env_kwargs={"num_values": 5, "action_start": -2}).spec
    assert (env.num_actions, env.action_start, env.shape) == (5, -2, (5,))
    assert World(env="CartPole-v1").spec.scale == 1.0


@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "scale"),
    [((84, 84, 3), "uint8", "hwc", 1 / 255), ((9,), "uint8", None, 1.0), ((4, 84, 84), "float32", "chw", 1 / 255)],
)
def test_only_images_are_scaled(shape: tuple[int, ...], dtype: str, layout: str | None, scale: float) -> None:
    env = World(env=Camera, env_kwargs={"shape": shape, "dtype": dtype}).spec
    assert (env.layout, env.scale) == (layout, scale)


def test_what_cannot_be_learnt_in_is_refused() -> None:
    with pytest.raises(EnvError, match=r"Pendulum-v1 must have Discrete actions, got Box"):
        _ = World(env="Pendulum-v1").spec
    with pytest.raises(EnvError, match="did you mean 'CartPole-v1'"):
        _ = World(env="CartPole-v7").spec
    with pytest.raises(ConfigError, match=r"plain data, got .*function that makes the env"):
        World(env="CartPole-v1", env_kwargs={"rewards": np.zeros(3)})
    with pytest.raises(ConfigError, match="plain data"):
        World(env="CartPole-v1", env_kwargs={"gravity": float("nan")})


@pytest.mark.parametrize(
    ("env", "recorded", "is_same"),
    [
        ("torso/Identity-v0", "torso/Identity-v0", True),
        ("torso.envs:torso/Identity-v0", "torso/Identity-v0", True),  # as a server tells callers that are no admins
        ("torso/Identity-v0", "torso.envs:torso/Identity-v0", True),
        ("torso.envs:torso/Identity-v0", "torso.envs.games:torso/Identity-v0", False),
        ("torso/Identity-v0", "CartPole-v1", False),
        ("torso/Identity-v0", None, False),
    ],
)
def test_recorded_arguments_are_for_the_same_env(env: str, recorded: str | None, is_same: bool) -> None:
    world = recorded_world({"env_id": recorded, "env_kwargs": {"num_values": 3}}, env)
    assert world.env_kwargs == ({"num_values": 3} if is_same else {})
