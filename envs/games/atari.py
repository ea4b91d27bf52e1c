"""Atari games through ale-py's C++ vector env, with the semantics of torso's other environments.

Observations are uint8 [E, 4, 84, 84]: gray, the brighter of a step's last two frames, newest plane last, zeros before
an episode's first (``torso.nets.prediction.atari_frames`` makes the same of raw frames, which can be observed in their
place). Rewards are the game's own. ``terminated`` is the game's end; a life lost before that is reported in
``infos["life_lost"]``, where the protocol enables it.

A step is one decision and lasts ``frameskip`` frames. In the last step of a game, and at the frame limit, ale-py stops
before it reads the screen, so the newest plane of that observation is up to a step old.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from ale_py import ALEInterface, roms
from ale_py.vector_env import AtariVectorEnv
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from torso.envs.games.atari_frames import FrameByFrame
from torso.envs.games.atari_settings import AtariSettings, atari_settings, is_whole
from torso.envs.vector.next_step import NextStepVector
from torso.envs.vector.registry import registered_spec
from torso.errors import ConfigError, EnvError


class AtariVector(NextStepVector):
    """Vector env of one of the ALE's games, one copy for each seed, on as many threads as there are copies or CPUs.

    name: an id such as ``"ALE/Pong-v5"``. seeds: one for each copy, in [0, 2**31); the first ``reset()`` begins from
    them. The trajectory of copy i is a function of its seed and its actions alone.
    render_mode: None, or ``"rgb_array"``, for which a second set of games runs in parallel, in colour.
    max_episode_steps: truncates episodes after this many steps, in place of the frame limit.
    raw_frames: observe the console's screen, a step's last two frames, uint8 [E, 2, H, 160, 3] (H: 210, in some games
    214 to 250), of the same games; after a reset that frame twice.
    protocol: ``"dqn2015"`` or ``"machado2018"`` (see ``atari_settings.PROTOCOLS``). env_kwargs: see ``AtariSettings``;
    they override the protocol's.

    Raises ``EnvError`` for an unknown game or render mode, ``ConfigError`` for settings that are unknown or cannot
    work.
    """

    def __init__(
        self,
        name: str,
        seeds: Sequence[int],
        *,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        raw_frames: bool = False,
        protocol: str | None = None,
        **env_kwargs: Any,
    ) -> None:
        spec = registered_spec(name)
        game = _game(spec)
        if not isinstance(raw_frames, bool):
            raise ConfigError(f"raw_frames must be True or False, got {raw_frames!r}")
        self.settings = atari_settings(spec, protocol, max_episode_steps, env_kwargs)
        super().__init__(
            spec.id,
            seeds,
            render_mode=render_mode,
            render_fps=max(1, 60 // self.settings.frameskip),  # the console's speed
            max_episode_steps=max_episode_steps,
        )
        self.spec = spec
        self.frame_stack = 1 if raw_frames else 4
        make = _make_frame_games if raw_frames else _make_games
        self._games = make(game, self.num_envs, self.settings)
        self._colour_games = None if render_mode is None else _make_colour_games(game, self.num_envs, self.settings)
        self._frames = np.zeros((self.num_envs, 0, 160, 3), dtype=np.uint8)  # [E, H, 160, 3], once it was reset
        self.set_spaces(self._games.single_observation_space, self._games.single_action_space)
        self._game = game
        self._lives = np.zeros(self.num_envs, dtype=np.int32)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions: those that do something in the game, or all of the console's."""
        console = _console(self._game)
        is_full = self.settings.full_action_space
        return tuple(
            action.name for action in (console.getLegalActionSet() if is_full else console.getMinimalActionSet())
        )

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode in every env; returns (observations uint8 [E, 4, 84, 84], infos).

        seed: as Gymnasium's: an int, from which the envs are seeded seed, seed + 1, ...; or one for each, where None
        continues the env's own generator. There are no options.
        """
        self._require_open()
        if options:
            raise EnvError(f"{self.name} has no reset options, got {options}")
        seeds = np.array([-1 if own is None else own for own in self.begin(seed)])  # -1: continue the generator
        observations, infos = self._games.reset(seed=seeds)
        if self._colour_games is not None:
            self._frames = self._colour_games.reset(seed=seeds)[0][:, 0]
        self._lives = infos["lives"].copy()
        return observations, {**infos, "life_lost": np.zeros(self.num_envs, dtype=bool)}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every env; returns (observations, rewards float64 [E], terminated [E], truncated [E], infos).

        infos: int32 [E] ``lives`` (0 throughout in games that have none), ``episode_frame_number``, ``frame_number``;
        bool [E] ``life_lost``. An env whose episode ended in the step before begins a new one instead. All arrays are
        copies, which the caller may keep.
        """
        self._require_open()
        actions = self.checked_actions(actions)  # ale-py's threads hang on one that the game does not have
        observations, rewards, terminated, truncated, infos = self._games.step(actions)
        if self._colour_games is not None:
            self._frames = self._colour_games.step(actions)[0][:, 0]
        lives = infos["lives"]
        life_lost = np.zeros(self.num_envs, dtype=bool)
        if self.settings.life_loss_info:
            life_lost = (lives < self._lives) & (lives > 0) & ~self.ended
        self._lives, self.ended = lives.copy(), terminated | truncated
        return observations, rewards.astype(np.float64), terminated, truncated, {**infos, "life_lost": life_lost}

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Render each env, uint8 [H, 160, 3] (H: 210, in some games 214 to 250).

        Like the observations the brighter of the last two frames, as consoles and their screens blend them: of one
        frame alone Asteroids, which draws only every other time, may be dark for good.
        Raises ``EnvError`` when made without a render mode, or not yet reset.
        """
        self._require_open()
        self.require_rendered()
        return tuple(self._frames.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """End the games and their threads."""
        self._games = self._colour_games = None

    def _require_open(self) -> None:
        if self.closed:
            raise EnvError(f"{self.name} is closed")

    def checked_seed(self, seed: Any) -> int:
        """Check that a seed is below 2**31."""
        return _checked_seed(seed)


def _make_games(game: str, num_envs: int, settings: AtariSettings, **view: Any) -> Any:
    """Make ale-py's vector env. view: settings of its observations, which do not change the games."""
    return AtariVectorEnv(
        game,
        num_envs,
        num_threads=min(num_envs, _num_cpus()),
        autoreset_mode=AutoresetMode.NEXT_STEP,
        repeat_action_probability=settings.repeat_action_probability,
        full_action_space=settings.full_action_space,
        frameskip=settings.frameskip,
        max_num_frames_per_episode=settings.max_num_frames_per_episode,
        noop_max=settings.noop_max + 1,  # ale-py draws from [0, noop_max)
        use_fire_reset=settings.use_fire_reset,
        episodic_life=False,
        life_loss_info=False,  # so that terminated means the game's end, also where a life is lost with it
        reward_clipping=False,
        **view,
    )


def _make_colour_games(game: str, num_envs: int, settings: AtariSettings) -> Any:
    """Make games observed as the brighter of a step's last two frames in each colour."""
    return _make_games(game, num_envs, settings, **_screen(game), stack_num=1, maxpool=True)


def _make_frame_games(game: str, num_envs: int, settings: AtariSettings) -> FrameByFrame:
    """Make games observed as a step's last two frames."""
    view = {**_screen(game), "stack_num": 1, "maxpool": False}
    frame_by_frame = dataclasses.replace(settings, frameskip=1)
    return FrameByFrame(lambda: _make_games(game, 1, frame_by_frame, **view), num_envs, settings.frameskip)


def _screen(game: str) -> dict[str, Any]:
    """Build the settings with which ale-py's vector env observes the game's own screen."""
    height, width = _console(game).getScreenDims()
    return {"grayscale": False, "img_height": height, "img_width": width}


def _console(game: str) -> ALEInterface:
    console = ALEInterface()
    console.loadROM(str(roms.get_rom_path(game)))
    return console


def _game(spec: EnvSpec) -> str:
    """Read the ROM's name from a spec."""
    if spec.vector_entry_point != "ale_py.vector_env:AtariVectorEnv":
        raise EnvError(f"{spec.id} is not one of ale-py's games with a vector env, such as 'ALE/Pong-v5'")
    return str(spec.kwargs["game"])


def _checked_seed(seed: Any) -> int:
    if not is_whole(seed, 0):
        raise ConfigError(f"a seed of the ALE must be a whole number in [0, 2**31), got {seed!r}")
    return int(seed)


def _num_cpus() -> int:
    """Count the CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
