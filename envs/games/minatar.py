"""MinAtar's five games (Young and Tian 2019): Atari games on a fully observed board of 10 x 10 cells.

Ids: ``MinAtar/Breakout-v0`` has all six actions, ``-v1`` only those that do something there; so for Asterix, Freeway,
Seaquest and SpaceInvaders. The rules are those of the package ``minatar`` (extra ``minatar``), whose game modules are
run unchanged. The code around them is reimplemented:

- The package's ``Environment.reset`` keeps the action that the next step may repeat, so an episode begins with the last
  one's action. Here it is cleared, as at the very first reset.
- Its first state is drawn before there is a seed. Here ``reset(seed)`` comes first, and all that follows is a function
  of the seed and the actions, equal to a new ``Environment`` that is seeded, then reset.
- Importing the package itself imports seaborn, pandas and matplotlib's windows, which takes a second. Here only
  the game's own file is imported.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from torso.envs.games.minatar_drawing import draw_board
from torso.envs.vector.next_step import NextStepVector
from torso.errors import ConfigError, EnvError, MissingExtraError

_GAMES = {
    "Asterix": "asterix",
    "Breakout": "breakout",
    "Freeway": "freeway",
    "Seaquest": "seaquest",
    "SpaceInvaders": "space_invaders",
}
_IDS = {f"MinAtar/{game}-v{version}": (game, bool(version)) for game in _GAMES for version in (0, 1)}
_FPS = 20  # the package shows a step for 50 ms
_ACTION_NAMES = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}


class MinAtarGame:
    """Simulation of one game with its random generator and its sticky actions.

    game: one of MinAtar's five, such as ``"Breakout"``. sticky_action_prob: the probability that a step repeats the
    last action. difficulty_ramping: whether Asterix, Seaquest and SpaceInvaders grow harder with time.
    Raises ``MissingExtraError`` where the package is not installed, ``ConfigError`` for a probability out of its range.
    """

    def __init__(self, game: str, *, sticky_action_prob: float = 0.1, difficulty_ramping: bool = True) -> None:
        if not 0 <= sticky_action_prob <= 1:
            raise ConfigError(f"sticky_action_prob must lie in [0, 1], got {sticky_action_prob}")
        self._rules: Any = _load_rules(game)(ramping=difficulty_ramping)
        self._random: np.random.RandomState = self._rules.random
        self._sticky_action_prob = sticky_action_prob
        self._last_action = 0
        self.channels: tuple[str, ...] = tuple(self._rules.channels)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode. seed: below 2**32; None continues the generator."""
        if seed is not None:
            _require_seed(seed)
            self._random = self._rules.random = np.random.RandomState(seed)
        self._last_action = 0
        self._rules.reset()

    def act(self, move: int) -> tuple[float, bool]:
        """Make one of the six moves; returns (reward, terminated)."""
        if self._random.rand() < self._sticky_action_prob:
            move = self._last_action
        self._last_action = move
        reward, terminated = self._rules.act(move)
        return float(reward), bool(terminated)

    def board(self) -> NDArray[np.bool_]:
        """Read the board: bool [10, 10, C]."""
        board: NDArray[np.bool_] = self._rules.state()
        return board

    def moves(self, minimal: bool) -> tuple[int, ...]:
        """Map each action to the game's number for it: all six, or those that do something."""
        return tuple(self._rules.minimal_action_set()) if minimal else tuple(range(len(self._rules.action_map)))

    def names(self, minimal: bool) -> tuple[str, ...]:
        """Name each action."""
        return tuple(_ACTION_NAMES[self._rules.action_map[move]] for move in self.moves(minimal))

    def spaces(self, minimal: bool) -> tuple[gym.spaces.Box[Any], gym.spaces.Discrete]:
        """Build the observation space and the action space."""
        bits: Any = np.bool_
        boards = gym.spaces.Box(0, 1, (10, 10, len(self.channels)), bits)
        return boards, gym.spaces.Discrete(len(self.moves(minimal)))


class MinAtarVector(NextStepVector):
    """Vector env of one of MinAtar's games, with one copy for each seed.

    name: its id. seeds: one for each copy, below 2**32; the first ``reset()`` begins from them. max_episode_steps:
    truncates episodes. See ``MinAtarGame`` for the others. Observations: bool [E, 10, 10, C], fresh at each step.
    Raises ``EnvError`` for an unknown id; see ``MinAtarGame``.
    """

    def __init__(
        self,
        name: str,
        seeds: Sequence[int],
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
    ) -> None:
        game, minimal = _parse(name)
        super().__init__(name, seeds, render_mode=render_mode, render_fps=_FPS, max_episode_steps=max_episode_steps)
        self._games = [
            MinAtarGame(game, sticky_action_prob=sticky_action_prob, difficulty_ramping=difficulty_ramping)
            for _ in self.seeds
        ]
        self._moves = self._games[0].moves(minimal)
        self._names = self._games[0].names(minimal)
        self.set_spaces(*self._games[0].spaces(minimal))
        self._max_episode_steps = np.inf if max_episode_steps is None else max_episode_steps
        self._episode_steps = np.zeros(self.num_envs, dtype=np.int64)

    @property
    def action_names(self) -> tuple[str, ...]:
        """See ``NextStepVector.action_names``."""
        return self._names

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Begin an episode in every env; returns (observations, infos)."""
        for game, own in zip(self._games, self.begin(seed), strict=True):
            game.reset(own)
        self._episode_steps[:] = 0
        return self._boards(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.bool_], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every env; returns (observations, rewards float64 [E], terminated [E], truncated [E], infos)."""
        chosen = self.checked_actions(actions).tolist()
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=bool)
        for i, (game, action, ended) in enumerate(zip(self._games, chosen, self.ended.tolist(), strict=True)):
            if ended:
                game.reset()
            else:
                rewards[i], terminated[i] = game.act(self._moves[action])
        self._episode_steps += 1
        self._episode_steps[self.ended] = 0
        truncated = self._episode_steps >= self._max_episode_steps
        self.ended = terminated | truncated
        return self._boards(), rewards, terminated, truncated, {}

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Render each env's board as uint8 [400, 400, 3]. Raises ``EnvError`` when made without a render mode."""
        self.require_rendered()
        return tuple(draw_board(game.board(), game.channels) for game in self._games)

    def checked_seed(self, seed: Any) -> int:
        """Check that a seed is below 2**32; see ``NextStepVector``."""
        _require_seed(super().checked_seed(seed))
        return int(seed)

    def _boards(self) -> NDArray[np.bool_]:
        return np.stack([game.board() for game in self._games])


class MinAtarEnv(gym.Env[NDArray[np.bool_], np.int64]):
    """One of MinAtar's games as a Gymnasium env, for use with wrappers. See ``MinAtarGame`` for the arguments.

    minimal: whether only the actions that do something are there.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": _FPS}  # noqa: RUF012

    def __init__(
        self,
        game: str,
        minimal: bool = True,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self._game = MinAtarGame(game, sticky_action_prob=sticky_action_prob, difficulty_ramping=difficulty_ramping)
        self._moves = self._game.moves(minimal)
        self.observation_space, self.action_space = self._game.spaces(minimal)
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        """Begin an episode; returns (board, info)."""
        super().reset(seed=seed)
        self._game.reset(seed)
        return self._game.board(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.bool_], float, bool, bool, dict[str, Any]]:
        """Make a move; returns (board, reward, terminated, truncated, info)."""
        reward, terminated = self._game.act(self._moves[int(action)])
        return self._game.board(), reward, terminated, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        """Render the board as uint8 [400, 400, 3]; None without a render mode."""
        return None if self.render_mode is None else draw_board(self._game.board(), self._game.channels)


def single_spec(name: str) -> EnvSpec:
    """Build the Gymnasium spec of one env for a MinAtar id. Raises ``EnvError`` for an unknown one."""
    game, minimal = _parse(name)
    _load_rules(game)
    return EnvSpec(name, entry_point="torso.envs.games.minatar:MinAtarEnv", kwargs={"game": game, "minimal": minimal})


def _parse(name: str) -> tuple[str, bool]:
    """Parse an id to its game, and whether it has only the actions that do something."""
    if name not in _IDS:
        by_lower = {game.lower(): game for game in _GAMES}
        requested = name.removeprefix("MinAtar/").rpartition("-v")[0] or name
        hint = f"MinAtar has {', '.join(_GAMES)}, each as -v0 and -v1"
        for close in difflib.get_close_matches(requested.lower(), by_lower, n=1):
            hint = f"did you mean 'MinAtar/{by_lower[close]}-v0' or 'MinAtar/{by_lower[close]}-v1'?"
        raise EnvError(f"unknown environment {name!r}; {hint}")
    return _IDS[name]


@cache
def _load_rules(game: str) -> Any:
    """Import the class of a game's rules from the file that the package installs."""
    package = find_spec("minatar")
    if package is None or not package.submodule_search_locations:
        raise MissingExtraError("MinAtar", "minatar")
    module = _GAMES[game]
    path = Path(package.submodule_search_locations[0]) / "environments" / f"{module}.py"
    spec = spec_from_file_location(f"minatar_rules_{module}", path)
    if spec is None or spec.loader is None:
        raise EnvError(f"{path} is not a Python module; install minatar again")
    rules = module_from_spec(spec)
    spec.loader.exec_module(rules)
    return rules.Env


def _require_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ConfigError(f"MinAtar's seeds must lie in [0, 2**32), got {seed}")
