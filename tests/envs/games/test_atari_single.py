"""Atari games one by one: protocols with wrappers, and the hints for ids as Gym named them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from torso.agents.presets.lookup import preset
from torso.envs import make_vector
from torso.envs.games.atari_single import AtariStarts, adapted_arguments
from torso.envs.vector.world import World
from torso.errors import ConfigError, EnvError


def unwrapped(env: gym.Env) -> gym.Env:
    return env


def test_the_preset_works_with_wrappers() -> None:
    known = preset(None, "ALE/Breakout-v5")
    spec = World(env="ALE/Breakout-v5", env_kwargs=known.env_kwargs, wrappers=[unwrapped]).spec
    assert (spec.shape, spec.num_actions) == ((210, 160, 3), 4)


def play(
    protocol: str | None, steps: int, seed: int = 3, game: str = "Breakout", **kwargs: Any
) -> tuple[list[bytes], int]:
    env_kwargs = {**kwargs, **({} if protocol is None else {"protocol": protocol})}
    vector = make_vector(f"ALE/{game}-v5", 1, [seed], env_kwargs=env_kwargs, wrappers=[unwrapped])
    rng, lost = np.random.default_rng(0), 0
    seen = [vector.reset()[0].tobytes()]
    for _ in range(steps):
        obs, *_, infos = vector.step(rng.integers(4, size=1))
        seen.append(obs.tobytes())
        lost += int(infos["life_lost"][0]) if "life_lost" in infos else 0
    vector.close()
    return seen, lost


def test_a_lost_life_is_told_where_the_protocol_says_so() -> None:
    assert play("dqn2015", 300)[1] >= 4
    assert play("machado2018", 100)[1] == play(None, 100)[1] == 0


def test_no_ops_are_of_the_seed_alone() -> None:
    assert play("dqn2015", 20)[0] == play("dqn2015", 20)[0]
    starts = {play("dqn2015", 0, seed, "SpaceInvaders")[0][0] for seed in range(8)}
    assert len(starts) > 1
    assert len({play("dqn2015", 0, seed, "SpaceInvaders", noop_max=0)[0][0] for seed in range(8)}) == 1


class Lives(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 99, (1,), np.int64), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.left, self.steps = [3, 3, 2, 2, 0, 0], 0
        return np.array([0]), {"lives": 0}  # Demon Attack's

    def step(self, action):
        self.steps += 1
        return np.array([self.steps]), 0.0, False, False, {"lives": self.left[self.steps - 1]}


def test_lives_are_counted_as_the_vector_env_does() -> None:
    env = AtariStarts(Lives(), 0, 4, life_loss_info=True)
    env.reset(seed=1)
    assert [env.step(0)[4]["life_lost"] for _ in range(6)] == [False, False, True, False, False, False]


def test_no_ops_are_whole_steps() -> None:
    shown = [int(AtariStarts(Lives(), 15, 4, life_loss_info=False).reset(seed=seed)[0][0]) for seed in range(40)]
    assert set(shown) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"protocol": "dqn2013"}, "protocol must be one of .*, got 'dqn2013'"),
        ({"noop_max": -1}, "noop_max must be a whole number of at least 0"),
        ({"use_fire_reset": True}, "use_fire_reset must be False for ALE/Pong-v5 with wrappers, got True"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        adapted_arguments("ALE/Pong-v5", given)


@pytest.mark.parametrize(
    "name",
    ["PongNoFrameskip", "Pong", "PongNoFrameskip-v4", "PongDeterministic-v9", "pong-v7", "Pong-ramNoFrameskip-v9"],
)
def test_ids_as_gym_named_them_have_a_hint(name: str) -> None:
    with pytest.raises(EnvError, match=r"; did you mean 'ALE/Pong-v5'\?"):
        make_vector(name)


def test_the_hint_of_an_id_that_no_package_has_registered_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in gym.registry if name.startswith("MsPacman")]:
        monkeypatch.delitem(gym.registry, name)
    with pytest.raises(EnvError, match=r"unknown environment 'MsPacmanNoFrameskip-v4'; did you mean 'ALE/MsPacman-v5'"):
        make_vector("MsPacmanNoFrameskip-v4")


def test_an_id_without_its_version_is_the_latest() -> None:
    vector = make_vector("CartPole", 2)
    assert vector.envs[0].spec.id == "CartPole-v1"
    vector.close()


def test_an_id_without_its_version_has_the_preset_of_the_latest() -> None:
    assert preset(None, "CartPole") == preset(None, "CartPole-v1")
    assert preset(None, "torso/Forager") == preset(None, "torso/Forager-v0")
    assert preset(None, "my_envs:CartPole").source == "defaults", "a class of this name"
    assert preset(None, "CartPole-v0").source == "defaults"
    assert preset("dqn", "ALE/Pong-v5").config.steps_between_checkpoints == 20_000 * 8
