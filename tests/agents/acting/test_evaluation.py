"""Evaluation against a plain Gymnasium loop over single episodes."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from diary import Diary, DiaryEnv

from torso.agents.acting.evaluation import evaluate, evaluation_seeds
from torso.agents.runs.events import Evaluation
from torso.envs.vector.world import World
from torso.errors import ConfigError, EnvError


def lean_to_the_pole(observations: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
    """A policy that plays CartPole for some 30 to 60 steps."""
    return (observations[:, 2] > 0).astype(np.int64), state


def played_one_by_one(env: gym.Env, act: Any, seeds: list[int]) -> list[tuple[float, int]]:
    """Oracle: returns and lengths of single episodes."""
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


def test_an_actor_without_a_state_is_asked_about_the_episodes_that_go_on_alone() -> None:
    """It gets each observation once: [a number that no other has, the step in the episode]."""
    asked = []

    def always_0(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        asked.append(obs)
        return np.zeros(len(obs), np.int64), state

    lengths = [3, 1, 5, 3]
    diary = Diary(script=[(length, "terminated") for length in lengths] + [(9, "truncated")] * 9)
    evaluation = evaluate(always_0, World(env=lambda: DiaryEnv(diary)), [0, 1, 2, 3])
    assert evaluation.lengths_steps == tuple(lengths)
    assert [len(obs) for obs in asked] == [4, 3, 3, 1, 1]
    assert [set(obs[:, 1].tolist()) for obs in asked] == [{0}, {1}, {2}, {3}, {4}]
    envs = [[int(number // 1_000_000) for number in obs[:, 0]] for obs in asked]
    assert envs == [[0, 1, 2, 3], [0, 2, 3], [0, 2, 3], [2], [2]]


def test_an_actor_with_a_state_is_asked_about_all() -> None:
    asked = []

    def count(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        asked.append((len(obs), state))
        return np.zeros(len(obs), np.int64), (np.full(len(obs), len(asked)),)

    diary = Diary(script=[(2, "terminated"), (3, "terminated"), (9, "truncated"), (9, "truncated")])
    evaluate(count, World(env=lambda: DiaryEnv(diary)), [0, 1])
    assert [rows for rows, _ in asked] == [2, 2, 2]
    assert asked[2][1][0].tolist() == [2, 2]


def test_episodes_that_do_not_end_are_cut_and_counted() -> None:
    def always_0(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        return np.zeros(len(obs), np.int64), state

    world = World(env="torso/Identity-v0", env_kwargs={"num_values": 1, "episode_steps": 50})
    assert evaluate(always_0, world, [0] * 40, max_steps=49) == Evaluation(
        returns=(49.0,) * 40, lengths_steps=(49,) * 40, num_cut=40
    )
    assert evaluate(always_0, world, [0, 1], max_steps=50).num_cut == 0  # it ended just in time
    lengths = [3, 1, 5, 3]
    diary = Diary(script=[(length, "truncated") for length in lengths] + [(9, "truncated")] * 9)
    some = evaluate(always_0, World(env=lambda: DiaryEnv(diary)), range(4), max_steps=3)
    assert (some.lengths_steps, some.num_cut) == ((3, 1, 3, 3), 1)
    assert some.to_json()["num_cut"] == 1
    with pytest.raises(ConfigError, match="max_steps of an episode must be at least 1, got 0"):
        evaluate(always_0, world, [0], max_steps=0)


class Doors(gym.Env):
    """Of four doors one or two are open, drawn anew at each step; to walk into a closed one is an error.

    Observes which are open, if ``tells`` by the mask. An episode lasts as long as its seed says.
    """

    def __init__(self, tells: bool = True) -> None:
        self.observation_space = gym.spaces.MultiBinary(4)
        self.action_space = gym.spaces.Discrete(4, start=3)
        self.tells = tells

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 2 if seed is None else seed
        return self._show()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.open[int(action) - 3], f"door {action} is closed"
        self.left -= 1
        obs, info = self._show()
        return obs, 1.0, self.left == 0, False, info

    def _show(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.open = np.isin(np.arange(4), self.np_random.integers(4, size=2)).astype(np.int8)
        if self.left == 0:
            self.open[:] = 0  # nothing is left to be done
        return self.open, {"action_mask": self.open} if self.tells else {}


def test_masks_reach_the_actor_where_the_env_gives_them() -> None:
    asked = []

    def walk(obs: np.ndarray, state: tuple[Any, ...], **masked: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
        asked.append((obs, masked))
        return obs.argmax(axis=1) + 3, state

    assert evaluate(walk, World(env=Doors), [9, 2, 5]).lengths_steps == (9, 2, 5)
    assert [len(obs) for obs, _ in asked] == [3, 3, 2, 2, 2, 1, 1, 1, 1]
    for obs, masked in asked:
        assert list(masked) == ["mask"]
        assert masked["mask"].dtype == np.bool_
        assert (masked["mask"] == obs.astype(bool)).all()
    asked.clear()
    evaluate(walk, World(env=Doors, env_kwargs={"tells": False}), [3])
    assert [masked for _, masked in asked] == [{}] * 3


def test_frames_are_shown_from_the_first_to_the_last() -> None:
    shown = []
    world = World(env="CartPole-v1")
    silent = evaluate(lean_to_the_pole, world, [1, 2])
    assert evaluate(lean_to_the_pole, world, [1, 2], on_frames=shown.append) == silent
    assert len(shown) == max(silent.lengths_steps) + 1
    assert {(len(frames), frames[1].shape, str(frames[1].dtype)) for frames in shown} == {(2, (400, 600, 3), "uint8")}
    assert not np.array_equal(shown[0][0], shown[-1][0])
    with pytest.raises(EnvError, match="torso/Identity-v0 cannot be rendered as 'rgb_array'; it has no render modes"):
        evaluate(lean_to_the_pole, World(env="torso/Identity-v0"), [1], on_frames=shown.append)


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
        "num_cut": 0,
        "returns": [1.0, 2.0, 6.0],
    }


def test_an_atari_score_is_measured_by_a_random_agents_and_a_humans() -> None:
    evaluation = Evaluation(returns=(14.6, 14.6), lengths_steps=(10, 20))
    assert evaluation.to_json("ALE/Pong-v5")["human_normalized_score"] == pytest.approx(1.0)
    assert Evaluation(returns=(-20.7,), lengths_steps=(9,)).to_json("ALE/Pong-v5")["human_normalized_score"] == 0.0
    assert "human_normalized_score" not in evaluation.to_json("CartPole-v1")


def test_models_are_scored_on_other_seeds_than_they_were_chosen_on() -> None:
    seeds = {
        (seed, purpose): evaluation_seeds(seed, 50, purpose) for seed in (0, 1) for purpose in ("selection", "score")
    }
    assert len({each for several in seeds.values() for each in several}) == 200
    assert all(0 <= each < 2**31 for several in seeds.values() for each in several)
    assert evaluation_seeds(0, 20, "score") == seeds[0, "score"][:20]


def test_an_evaluation_without_episodes_is_refused() -> None:
    for episodes in (0, -1):
        with pytest.raises(ConfigError, match=f"episodes of an evaluation must be at least 1, got {episodes}"):
            evaluation_seeds(0, episodes, "score")
    with pytest.raises(ConfigError, match="seed must not be negative, got -1"):
        evaluation_seeds(-1, 5, "score")
    with pytest.raises(ConfigError, match="seeds of an evaluation must hold at least 1 episode's, got 0"):
        evaluate(lean_to_the_pole, World(env="CartPole-v1"), [])
