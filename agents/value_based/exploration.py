"""Exploration: explorers by name, and their choice of actions from values, with legal-action masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.states import numpy_generator_state, restore_numpy_generator
from torso.agents.protocols import Explorer
from torso.agents.value_based.next_policies import greedy_actions
from torso.checks import choice
from torso.errors import ConfigError
from torso.nets.prediction.choosing import random_legal


class _Drawing:
    """Base class of explorers that draw from one generator, which is all their state."""

    rng: np.random.Generator

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the generator's state."""
        return {"rng": numpy_generator_state(self.rng)}, {}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        restore_numpy_generator(self.rng, state["rng"])


class EpsilonGreedy(_Drawing):
    """Explorer that takes the greedy action or, with a probability that follows a schedule, a random legal one.

    epsilon: the probability at a step, of all envs or of each, [E]. The order of draws is part of a run's bits:
    ``rng.random(E)``, the forward, ``rng.integers``.
    """

    def __init__(self, epsilon: Callable[[int], float | NDArray[np.float64]], rng: np.random.Generator) -> None:
        self.epsilon = epsilon
        self.rng = rng

    def choose(
        self,
        values: Callable[[], Tensor],
        mask: NDArray[np.bool_] | None,
        *,
        num_envs: int,
        num_actions: int,
        step: int,
    ) -> NDArray[np.int64]:
        """Choose an action for each env, int64 [E], counted from 0.

        values: gives the action values [E, A]; it is called once, and not at all where every env explores, so that a
        warm-up costs no forward. mask: bool [E, A], the legal actions; None: all are.
        """
        rng = self.rng
        explore = rng.random(num_envs) < self.epsilon(step)
        num_explore = int(np.count_nonzero(explore))
        if num_explore == num_envs:
            return self._random_actions(mask, explore, num_explore, num_actions)
        q = values().cpu()  # one copy that is waited for; on the device, masks would have to be copied there
        actions: NDArray[np.int64] = greedy_actions(q, None if mask is None else torch.from_numpy(mask)).numpy()
        if num_explore:
            actions[explore] = self._random_actions(mask, explore, num_explore, num_actions)
        return actions

    def figures(self, step: int) -> dict[str, float]:
        """Return the probability of a random action at a step, a mean over the envs."""
        return {"epsilon": float(np.mean(self.epsilon(step)))}

    def _random_actions(
        self, mask: NDArray[np.bool_] | None, explore: NDArray[np.bool_], num_explore: int, num_actions: int
    ) -> NDArray[np.int64]:
        if mask is None:
            return self.rng.integers(num_actions, size=num_explore)
        return random_legal(mask[explore], self.rng)


class Boltzmann(_Drawing):
    """Explorer that draws a legal action in proportion to ``exp(value / temperature)`` (Sutton 1990).

    One draw of ``rng.gumbel`` an action and step: the best of values plus Gumbel noise is such a draw.
    """

    def __init__(self, temperature: float, rng: np.random.Generator) -> None:
        self.temperature = temperature
        self.rng = rng

    def choose(
        self,
        values: Callable[[], Tensor],
        mask: NDArray[np.bool_] | None,
        *,
        num_envs: int,
        num_actions: int,
        step: int,
    ) -> NDArray[np.int64]:
        """Choose an action for each env, as in `EpsilonGreedy.choose`; ``values`` is called once."""
        preferences = values().double().cpu().numpy() / self.temperature + self.rng.gumbel(size=(num_envs, num_actions))
        if mask is not None:
            preferences[~mask] = -np.inf
        actions: NDArray[np.int64] = preferences.argmax(axis=1)
        return actions

    def figures(self, step: int) -> dict[str, float]:
        """Return the temperature."""
        return {"temperature": self.temperature}


def ladder(num_envs: int, epsilon: float, alpha: float) -> NDArray[np.float64]:
    """Epsilon of each env, ``epsilon^(1 + i alpha / (num_envs - 1))`` for env i (Horgan et al. 2018, appendix D); [E].

    One env has ``epsilon``.
    """
    place = np.arange(num_envs) / max(1, num_envs - 1)
    epsilons: NDArray[np.float64] = epsilon ** (1 + place * alpha)
    return epsilons


class ExplorationSettings(Protocol):
    """Settings that explorers are built from, as `DQNConfig` has them."""

    @property
    def num_envs(self) -> int:
        """Envs stepped together."""
        ...

    @property
    def ladder_epsilon(self) -> float:
        """Probability of a random action in the first env of a ladder."""
        ...

    @property
    def ladder_alpha(self) -> float:
        """Growth of that exponent from the first env of a ladder to the last."""
        ...

    @property
    def temperature(self) -> float:
        """Temperature of Boltzmann exploration."""
        ...

    def epsilon(self, step: int) -> float:
        """Probability of a random action at a step."""
        ...


@dataclass(frozen=True)
class Exploration:
    """Exploration strategy: how its explorer is built, and the settings that it uses."""

    build: Callable[[ExplorationSettings, np.random.Generator], Explorer]
    """Builds the explorer, which draws from the generator."""
    settings: tuple[str, ...] = ()
    """Names of the settings that are of use to it alone."""
    is_noise: bool = False
    """Whether the noise of the network is all that explores."""


def _on_a_ladder(settings: ExplorationSettings, rng: np.random.Generator) -> Explorer:
    epsilons = ladder(settings.num_envs, settings.ladder_epsilon, settings.ladder_alpha)
    return EpsilonGreedy(lambda step: epsilons, rng)


EXPLORATIONS: dict[str, Exploration] = {
    "epsilon": Exploration(
        lambda settings, rng: EpsilonGreedy(settings.epsilon, rng),
        ("epsilon_start", "epsilon_end", "epsilon_decay_steps"),
    ),
    "ladder": Exploration(_on_a_ladder, ("ladder_epsilon", "ladder_alpha")),
    "noisy": Exploration(lambda settings, rng: EpsilonGreedy(lambda step: 0.0, rng), is_noise=True),
    "boltzmann": Exploration(lambda settings, rng: Boltzmann(settings.temperature, rng), ("temperature",)),
}


def require_exploration(name: object, *, noisy: bool) -> None:
    """Raise ConfigError unless an exploration of this name is known, and fits a head that is ``noisy`` or not."""
    choice("exploration", name, tuple(EXPLORATIONS))
    if EXPLORATIONS[str(name)].is_noise and not noisy:
        raise ConfigError(
            f"exploration must not be {name!r} without noisy, or nothing would explore, got {name!r}; give noisy, or "
            "another exploration"
        )
