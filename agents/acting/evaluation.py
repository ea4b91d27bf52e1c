"""Evaluation: undiscounted returns of a policy over whole episodes, in separate envs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torso.agents.runs.events import Evaluation
from torso.arrays import ArrayState
from torso.envs import action_masks, action_start
from torso.envs.vector.finite import require_finite_step
from torso.envs.vector.model_fit import interface_of, require_fit
from torso.envs.vector.world import World
from torso.errors import ConfigError

Frames = tuple[NDArray[np.uint8], ...]
MAX_STEPS = 27_000  # of an episode: 30 minutes of Atari, the 108,000 frames of ale-py's ids
MAX_ENVS = 32  # stepped in parallel; a forward of 32 rows costs little more than one of 1


class Actor(Protocol):
    """Policy interface: a `torso.nets.Predictor`'s ``act``, a client, an agent."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[NDArray[np.int64], ArrayState]:
        """Select the env's own actions, int64 [B], and the next state, for ``(observations, state)``.

        observations: [B, *shape], as the env returns them. state: as the previous call returned it, initially ``()``.
        ``mask``: bool [B, A], the legal actions; a keyword argument, passed only where the env provides masks.
        An actor whose state stays ``()`` is called for unfinished episodes alone, so B may shrink.
        """
        ...


def evaluation_seeds(seed: int, episodes: int, purpose: str) -> list[int]:
    """Derive a seed for each episode, from a separate random stream for each purpose.

    ``selection`` seeds select the best model during training; ``score`` seeds are fresh ones, to score it on; ``video``
    seeds are those of the recorded episodes.
    Raises ConfigError for less than 1 episode, and for a seed below 0.
    """
    if episodes < 1:
        raise ConfigError(f"episodes of an evaluation must be at least 1, got {episodes}")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    stream = {"selection": 1, "score": 2, "video": 3}[purpose]
    words = np.random.SeedSequence(entropy=seed, spawn_key=(0x7E57, stream)).generate_state(episodes, np.uint32)
    return [int(word) >> 1 for word in words]


def evaluate(
    act: Actor,
    world: World,
    seeds: Sequence[int],
    *,
    max_steps: int = MAX_STEPS,
    max_envs: int = MAX_ENVS,
    on_frames: Callable[[Frames], None] | None = None,
) -> Evaluation:
    """Play one episode for each seed, to its end, and return the env's own undiscounted returns.

    Every episode counts, however long it is: envs that finish first wait for the others. One that does not end is
    truncated after ``max_steps`` steps. At most ``max_envs`` envs are open at a time. ``on_frames`` is called with the
    rendered frames of the envs stepped in parallel, a uint8 [H, W, 3] for each, at the start and after each step.

    Raises ConfigError for no seeds or no steps, and EnvError where frames are requested and the env renders none, or
    where ``act`` is a predictor's whose model does not fit the env.
    """
    if not seeds:
        raise ConfigError("seeds of an evaluation must hold at least 1 episode's, got 0")
    if max_steps < 1:
        raise ConfigError(f"max_steps of an episode must be at least 1, got {max_steps}")
    if max_envs < 1:
        raise ConfigError(f"max_envs of an evaluation must be at least 1, got {max_envs}")
    render_mode = None if on_frames is None else "rgb_array"
    returns: list[float] = []
    lengths: list[int] = []
    num_cut = 0
    num_parallel = 1 if world.is_constructed else max_envs
    for start in range(0, len(seeds), num_parallel):
        envs = world.make(seeds[start : start + num_parallel], render_mode=render_mode)
        try:
            if (policy := getattr(getattr(act, "__self__", None), "interface", None)) is not None:
                require_fit(policy, interface_of(envs), world.name)
            evaluation = _rollout(act, envs, world.name, max_steps, on_frames)
        finally:
            envs.close()
        returns += evaluation.returns
        lengths += evaluation.lengths_steps
        num_cut += evaluation.num_cut
    return Evaluation(returns=tuple(returns), lengths_steps=tuple(lengths), num_cut=num_cut)


def _rollout(
    act: Actor, envs: Any, name: str, max_steps: int, on_frames: Callable[[Frames], None] | None
) -> Evaluation:
    """Play the first episode of each env."""
    num_envs, num_actions = envs.num_envs, int(envs.single_action_space.n)
    first_action = action_start(envs.single_action_space)
    returns, lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
    actions = np.full(num_envs, first_action, dtype=np.int64)  # ignored in an env that has finished
    playing = np.ones(num_envs, dtype=bool)
    state: ArrayState = ()
    obs, infos = envs.reset()
    for _ in range(max_steps):
        if on_frames is not None:
            on_frames(envs.render())
        mask = action_masks(infos, num_envs, num_actions)
        rows = slice(None) if state or playing.all() else playing  # a state has a row for every env
        options = {}
        if mask is not None:
            options["mask"] = mask[rows]
            actions = first_action + mask.argmax(axis=1)  # any that is legal
        actions[rows], state = act(obs[rows], state, **options)
        obs, rewards, terminated, truncated, infos = envs.step(actions)
        require_finite_step(name, obs, rewards, lengths + 1)
        returns += np.where(playing, rewards, 0.0)
        lengths += playing
        playing &= ~(terminated | truncated)
        if not playing.any():
            break
    if on_frames is not None:
        on_frames(envs.render())
    return Evaluation(
        returns=tuple(returns.tolist()), lengths_steps=tuple(lengths.tolist()), num_cut=int(playing.sum())
    )
