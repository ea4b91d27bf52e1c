from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import hypothesis.strategies as st
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings

from torso.envs import make_vector, observation_layout, require_next_step
from torso.envs.games.minatar import MinAtarGame, MinAtarVector, _load_rules, single_spec
from torso.envs.games.minatar_drawing import draw_board
from torso.errors import ConfigError, EnvError, MissingExtraError

PACKAGE_NAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
GAMES = list(PACKAGE_NAMES)
games = pytest.mark.parametrize("game", GAMES)


def random_actions(num_steps: int, num_envs: int, num_actions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(num_actions, size=(num_steps, num_envs))


def trace(vector: gym.vector.VectorEnv, actions: np.ndarray, **reset: Any) -> Iterator[tuple[Any, ...]]:
    obs, infos = vector.reset(**reset)
    yield obs.tobytes(), infos
    for action in actions:
        obs, reward, terminated, truncated, infos = vector.step(action)
        yield obs.tobytes(), reward.tolist(), terminated.tolist(), truncated.tolist(), infos


# the rules are the package's


def environment_of_the_package(game: str, **kwargs: Any) -> Any:
    from minatar import Environment  # imports seaborn

    return Environment(PACKAGE_NAMES[game], **kwargs)


@games
@pytest.mark.parametrize(
    ("version", "kwargs"), [(0, {}), (1, {"sticky_action_prob": 0.4, "difficulty_ramping": False})]
)
def test_it_plays_as_the_package_does_when_its_sticky_action_is_cleared(
    game: str, version: int, kwargs: dict[str, Any]
):
    theirs = environment_of_the_package(game, **kwargs)
    moves = theirs.minimal_action_set() if version else list(range(6))
    ours = make_vector(f"MinAtar/{game}-v{version}", 1, seed=[5], env_kwargs=kwargs)
    assert ours.single_action_space == gym.spaces.Discrete(len(moves))
    theirs.seed(5)
    theirs.reset()
    obs, _ = ours.reset()
    np.testing.assert_array_equal(obs[0], theirs.state())
    ended = False
    num_episodes = total = 0
    for (action,) in random_actions(600, 1, len(moves)):
        obs, reward, terminated, truncated, _ = ours.step(np.array([action]))
        if ended:
            theirs.last_action = 0
            theirs.reset()
            expected = (0, False)
        else:
            expected = theirs.act(moves[action])
        assert (reward.tolist(), terminated.tolist(), truncated.tolist()) == ([expected[0]], [expected[1]], [False])
        np.testing.assert_array_equal(obs[0], theirs.state())
        ended = expected[1]
        num_episodes += ended
        total += expected[0]
    if game != "Freeway":  # which lasts 2,500 steps, and no random chicken crosses the road
        assert num_episodes > 0
        assert total > 0


@games
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    history=st.lists(st.integers(0, 5), max_size=40),
    actions=st.lists(st.integers(0, 5), min_size=1, max_size=40),
)
def test_a_seeded_reset_forgets_all_that_was(game: str, seed: int, history: list[int], actions: list[int]):
    used, fresh = (MinAtarGame(game, sticky_action_prob=0.5) for _ in range(2))
    for action in history:
        used.act(action)
    used.reset(seed)
    fresh.reset(seed)
    np.testing.assert_array_equal(used.board(), fresh.board())
    for action in actions:
        assert used.act(action) == fresh.act(action)
        np.testing.assert_array_equal(used.board(), fresh.board())


def test_an_episode_does_not_begin_with_the_action_of_the_last():
    game = MinAtarGame("Breakout", sticky_action_prob=0)
    game.reset(0)
    game.act(1)
    game.reset()
    game._sticky_action_prob = 1  # from here on, the last action is repeated whatever is asked for
    paddle = game.board()[..., 0].tolist()
    game.act(1)
    assert game.board()[..., 0].tolist() == paddle


# the stream


@games
def test_the_vector_env_does_what_single_envs_do(game: str):
    name = f"MinAtar/{game}-v0"
    ours = make_vector(name, 3, seed=4, max_episode_steps=25)
    one_by_one = make_vector(name, 3, seed=4, max_episode_steps=25, wrappers=[lambda env: env])
    assert isinstance(ours, MinAtarVector)
    assert not isinstance(one_by_one, MinAtarVector)
    assert ours.seeds == one_by_one.seeds
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(one_by_one, space)
    actions = random_actions(120, 3, 6)
    events = list(trace(ours, actions))
    assert events == list(trace(one_by_one, actions))
    assert any(event[3] != [False] * 3 for event in events[1:])
    assert list(trace(ours, actions)) == list(trace(one_by_one, actions)) != events  # no seed: the generators go on
    assert list(trace(ours, actions, seed=[1, 2, 3])) == list(trace(one_by_one, actions, seed=1))
    for vector in (ours, one_by_one):
        require_next_step(vector)
        vector.close()


def test_observations_are_fresh_and_what_the_space_says():
    vector = make_vector("MinAtar/Seaquest-v1", 2)
    assert observation_layout(vector.single_observation_space) == ((10, 10, 10), "bool", "hwc")
    first, _ = vector.reset()
    second, reward, *_ = vector.step(np.array([5, 5]))
    kept = first.copy()
    vector.step(np.array([1, 2]))
    np.testing.assert_array_equal(first, kept)
    assert (first.dtype, reward.dtype) == (np.bool_, np.float64)
    assert vector.observation_space.contains(second)
    assert not np.shares_memory(first, second)


@games
def test_gymnasium_finds_nothing_wrong_with_a_single_env(game: str):
    env = gym.make(single_spec(f"MinAtar/{game}-v1"), render_mode="rgb_array", disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()


# pictures


@games
def test_everything_on_the_board_is_drawn(game: str):
    channels = MinAtarGame(game).channels
    nothing = np.zeros((10, 10, len(channels)), bool)
    empty = draw_board(nothing, channels)
    assert (empty.shape, empty.dtype) == ((400, 400, 3), np.uint8)
    pictures = []
    for channel in range(len(channels)):
        board = nothing.copy()
        board[2, 7, channel] = True
        picture = draw_board(board, channels)
        changed = np.argwhere((picture != empty).any(axis=2))
        assert changed.min(axis=0).tolist() >= [80, 280]
        assert changed.max(axis=0).tolist() <= [119, 319]
        assert len(changed) > 100
        pictures.append(picture.tobytes())
    twins = {"SpaceInvaders": 1}  # an alien that goes left is an alien
    assert len(set(pictures)) == len(channels) - twins.get(game, 0)


def test_who_plays_lies_on_top():
    channels = MinAtarGame("Asterix").channels
    board = np.zeros((10, 10, len(channels)), bool)
    board[2, 7, channels.index("player")] = True
    alone = draw_board(board, channels)
    board[2, 7, channels.index("trail")] = True
    np.testing.assert_array_equal(draw_board(board, channels), alone)


def test_rendering():
    vector = make_vector("MinAtar/Breakout-v1", 2, render_mode="rgb_array")
    obs, _ = vector.reset()
    frames = vector.render()
    assert len(frames) == 2
    np.testing.assert_array_equal(frames[1], draw_board(obs[1], ("paddle", "ball", "trail", "brick")))
    with pytest.raises(EnvError, match="made without a render mode"):
        make_vector("MinAtar/Breakout-v1").render()
    for wrappers in ([], [lambda env: env]):
        with pytest.raises(EnvError, match="MinAtar/Breakout-v1 cannot be rendered as 'human'; it has rgb_array"):
            make_vector("MinAtar/Breakout-v1", wrappers=wrappers, render_mode="human")


# what is refused


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("MinAtar/Braekout-v1", "did you mean 'MinAtar/Breakout-v0' or 'MinAtar/Breakout-v1'"),
        ("MinAtar/space_invaders-v0", "did you mean 'MinAtar/SpaceInvaders-v"),
        ("MinAtar/Breakout-v2", "did you mean 'MinAtar/Breakout-v"),
        ("MinAtar/Pitfall-v0", "MinAtar has Asterix, Breakout, Freeway, Seaquest, SpaceInvaders, each as -v0 and -v1"),
    ],
)
@pytest.mark.parametrize("wrappers", [[], [lambda env: env]])
def test_unknown_games(name: str, hint: str, wrappers: list):
    with pytest.raises(EnvError, match=f"unknown environment '{name}'; {hint}"):
        make_vector(name, wrappers=wrappers)


@pytest.mark.parametrize("wrappers", [[], [lambda env: env]])
def test_without_the_package(wrappers: list, monkeypatch: pytest.MonkeyPatch):
    _load_rules.cache_clear()
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(MissingExtraError, match=r"MinAtar needs the extra 'minatar': pip install 'torso\[minatar\]'"):
        make_vector("MinAtar/Breakout-v1", wrappers=wrappers)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"env_kwargs": {"sticky_action_prob": 1.5}}, ConfigError, r"must lie in \[0, 1\], got 1.5"),
        ({"env_kwargs": {"wings": 2}}, EnvError, "could not be made with {'wings': 2}: TypeError"),
        ({"env_kwargs": {"max_episode_steps": 0}}, ConfigError, "max_episode_steps must be at least 1, got 0"),
        ({"seed": [2**32]}, ConfigError, r"MinAtar's seeds must lie in \[0, 2\*\*32\), got 4294967296"),
    ],
)
def test_settings_that_cannot_work(arguments: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make_vector("MinAtar/Breakout-v1", **arguments)


def test_it_imports_no_pictures_library():
    """The package itself would import seaborn, pandas and matplotlib's windows."""
    code = (
        "import sys\n"
        "from torso.envs import make_vector\n"
        "make_vector('MinAtar/Breakout-v1').reset()\n"
        "print({'minatar', 'seaborn', 'pandas', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
