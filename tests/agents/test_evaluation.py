"""Evaluation against a plain Gymnasium loop that plays one episode after the other."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from diary import Diary, DiaryEnv

from torso.agents.evaluation import Evaluation, evaluate, evaluation_seeds
from torso.agents.world import World
from torso.errors import ConfigError


def lean_to_the_pole(observations: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
    """A policy that plays CartPole for some 30 to 60 steps."""
    return (observations[:, 2] > 0).astype(np.int64), state


def played_one_by_one(env: gym.Env, act: Any, seeds: list[int]) -> list[tuple[float, int]]:
    """The oracle: returns and lengths of single episodes."""
    figures = []
    for seed in seeds:
        obs, _ = env.reset(seed=seed)
        total, steps, over = 0.0, 0, False
        while not over:
            actions, _ = act(obs[None], ())
            obs, reward, terminated, truncated, _ = env.step(actions[0])
            total, steps, over = total + float(reward), steps + 1, terminated or truncated
        figures.append((total, steps))
    return figures


def figures(evaluation: Evaluation) -> list[tuple[float, int]]:
    return list(zip(evaluation.returns, evaluation.lengths_steps, strict=True))


def test_episodes_played_together_give_what_they_give_one_by_one() -> None:
    seeds = evaluation_seeds(0, 70, "score")  # more than are played together
    expected = played_one_by_one(gym.make("CartPole-v1"), lean_to_the_pole, seeds)
    assert len(set(expected)) > 10  # short ones end first, and wait
    assert figures(evaluate(lean_to_the_pole, World(env="CartPole-v1"), seeds)) == expected
    assert figures(evaluate(lean_to_the_pole, World(env="CartPole-v1"), seeds[40:])) == expected[40:]


def test_truncated_and_terminated_episodes_both_end() -> None:
    def always_2(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        return np.full(len(obs), 2), state

    seeds = evaluation_seeds(5, 40, "selection")
    oracle, diary = Diary(), Diary()
    expected = played_one_by_one(DiaryEnv(oracle), always_2, seeds)
    assert figures(evaluate(always_2, World(env=lambda: DiaryEnv(diary)), seeds)) == expected
    assert oracle.episodes == expected
    assert diary.closed == diary.made == 40


def test_the_actor_gets_its_state_back_and_the_envs_own_actions_are_what_it_gives() -> None:
    states = []

    def name_what_is_shown(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        states.append(state)
        return obs.argmax(axis=1) + 7, (*state, len(state))

    world = World(env="torso/Identity-v0", env_kwargs={"action_start": 7, "episode_steps": 5})
    assert evaluate(name_what_is_shown, world, [3, 4]).returns == (5.0, 5.0)
    assert states == [tuple(range(n)) for n in range(5)]


def test_envs_are_closed_when_the_actor_fails() -> None:
    diary = Diary()

    def fail(obs: np.ndarray, state: tuple[Any, ...]) -> Any:
        raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea"):
        evaluate(fail, World(env=lambda: DiaryEnv(diary)), [1, 2, 3])
    assert diary.closed == 3


def test_a_constructed_env_plays_one_episode_after_the_other_and_stays_open() -> None:
    def always_0(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        return np.zeros(len(obs), np.int64), state

    diary = Diary()
    evaluation = evaluate(always_0, World(env=DiaryEnv(diary)), [5, 6, 5])
    assert figures(evaluation) == diary.episodes
    assert diary.resets == [5, 6, 5]
    assert evaluation.returns[0] == evaluation.returns[2]
    assert (diary.made, diary.closed) == (1, 0)


def test_figures() -> None:
    evaluation = Evaluation(returns=(1.0, 2.0, 6.0), lengths_steps=(10, 20, 60))
    assert evaluation.mean == 3.0
    assert evaluation.std == pytest.approx((14 / 3) ** 0.5)
    assert evaluation.to_json() == {
        "episodes": 3,
        "mean_return": 3.0,
        "std_return": evaluation.std,
        "min_return": 1.0,
        "max_return": 6.0,
        "mean_length_steps": 30.0,
        "returns": [1.0, 2.0, 6.0],
    }


def test_models_are_scored_on_other_seeds_than_they_were_chosen_on() -> None:
    seeds = {
        (seed, purpose): evaluation_seeds(seed, 50, purpose) for seed in (0, 1) for purpose in ("selection", "score")
    }
    assert len({each for several in seeds.values() for each in several}) == 200
    assert all(0 <= each < 2**31 for several in seeds.values() for each in several)
    assert evaluation_seeds(0, 20, "score") == seeds[0, "score"][:20]


def test_an_evaluation_without_episodes_is_refused() -> None:
    for episodes in (0, -1):
        with pytest.raises(ConfigError, match=f"at least 1 episode, got {episodes}"):
            evaluation_seeds(0, episodes, "score")
    with pytest.raises(ConfigError, match="seed must not be negative, got -1"):
        evaluation_seeds(-1, 5, "score")
    with pytest.raises(ConfigError, match="at least 1 episode"):
        evaluate(lean_to_the_pole, World(env="CartPole-v1"), [])
