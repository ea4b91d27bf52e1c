"""Evaluation: an agent's true returns over whole episodes, in envs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torso.agents.world import World
from torso.errors import ConfigError

State = tuple[Any, ...]
_MAX_ENVS = 32  # stepped together; a forward of 32 rows costs little more than one of 1


class Actor(Protocol):
    """What acts: a `torso.nets.Predictor`, a client, an agent."""

    def __call__(self, observations: NDArray[Any], state: State, /) -> tuple[NDArray[np.int64], State]:
        """Observations [B, *shape] as the env gives them to the env's own actions, int64 [B], and the next state."""
        ...


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Returns and lengths of episodes, in the order of their seeds."""

    returns: tuple[float, ...]
    lengths_steps: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns (over the episodes; n in the denominator)."""
        return float(np.std(self.returns))

    def to_json(self) -> dict[str, Any]:
        """The figures as plain data."""
        return {
            "episodes": len(self.returns),
            "mean_return": self.mean,
            "std_return": self.std,
            "min_return": min(self.returns),
            "max_return": max(self.returns),
            "mean_length_steps": float(np.mean(self.lengths_steps)),
            "returns": list(self.returns),
        }


def evaluation_seeds(seed: int, episodes: int, purpose: str) -> list[int]:
    """A seed for each episode, from a stream of its own for each purpose.

    ``selection`` seeds choose the best model during training; ``score`` seeds are fresh ones, to score it on.
    Raises ConfigError for less than 1 episode, and for a seed below 0.
    """
    if episodes < 1:
        raise ConfigError(f"an evaluation needs at least 1 episode, got {episodes}")
    if seed < 0:
        raise ConfigError(f"seed must not be negative, got {seed}")
    stream = {"selection": 1, "score": 2}[purpose]
    words = np.random.SeedSequence(entropy=seed, spawn_key=(0x7E57, stream)).generate_state(episodes, np.uint32)
    return [int(word) >> 1 for word in words]


def evaluate(act: Actor, world: World, seeds: Sequence[int]) -> Evaluation:
    """Play one episode for each seed, to its end, and give the env's own undiscounted returns.

    Every episode counts, however long it is: envs that finish first wait for the others.
    """
    if not seeds:
        raise ConfigError("an evaluation needs at least 1 episode, got 0")
    returns: list[float] = []
    lengths: list[int] = []
    together = 1 if world.is_constructed else _MAX_ENVS
    for start in range(0, len(seeds), together):
        envs = world.make(seeds[start : start + together])
        try:
            group_returns, group_lengths = _play(act, envs)
        finally:
            envs.close()
        returns += group_returns
        lengths += group_lengths
    return Evaluation(returns=tuple(returns), lengths_steps=tuple(lengths))


def _play(act: Actor, envs: Any) -> tuple[list[float], list[int]]:
    """The first episode of each env."""
    obs, _ = envs.reset()
    returns, lengths = np.zeros(envs.num_envs), np.zeros(envs.num_envs, dtype=np.int64)
    playing = np.ones(envs.num_envs, dtype=bool)
    state: State = ()
    while playing.any():
        actions, state = act(obs, state)
        obs, rewards, terminated, truncated, _ = envs.step(actions)
        returns += np.where(playing, rewards, 0.0)
        lengths += playing
        playing &= ~(terminated | truncated)
    return returns.tolist(), lengths.tolist()
