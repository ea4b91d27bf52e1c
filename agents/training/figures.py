"""Running figures of a training, and its best network so far: parts of a checkpoint."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torso.agents.optim.observation_moments import input_statistics
from torso.agents.optim.states import strip_prefix, with_prefix
from torso.agents.runs.events import Tick
from torso.errors import ConfigError
from torso.nets import Network

_RECENT_EPISODES = 100


class TrainingFigures:
    """Episodes so far, and the means of the updates' figures since the last log line."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.cuts: list[int] = []  # steps of checkpoints outside the period: interruptions, ends of runs
        self.num_episodes = 0
        self.num_cut_episodes = 0  # which a checkpoint or an evaluation truncated; they are not among num_episodes
        self.owes_evaluation = False  # one is due, and waits for the end of an episode
        self.owes_checkpoint = False  # one is due, and waits for the end of a rollout; never so in a checkpoint
        self._recent_returns: deque[float] = deque(maxlen=_RECENT_EPISODES)
        self._recent_lengths: deque[int] = deque(maxlen=_RECENT_EPISODES)
        self._sums: dict[str, Tensor] = {}  # on the device
        self._read: dict[str, float] | None = None  # the same, once they were read
        self._num_metrics = 0

    def record(self, tick: Tick) -> None:
        """Add a tick, without synchronising with the device."""
        for episode in tick.episodes:
            self.num_episodes += 1
            self._recent_returns.append(episode.episode_return)
            self._recent_lengths.append(episode.length_steps)
        if tick.updates:
            self._num_metrics += 1
            self._read = None
            for name, value in tick.metrics.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value

    def require_finite(self, total_steps: int) -> None:
        """Raise ConfigError where a figure since the last log line is not finite: the training has diverged."""
        for name, value in self._totals().items():
            if not math.isfinite(value):
                raise ConfigError(
                    f"the {name} must be finite, got {value} by step {total_steps}: the training diverged; lower "
                    "learning_rate, set max_grad_norm, or check the env's rewards"
                )

    def episodes(self) -> dict[str, float | None]:
        """Return the figures of episodes, means over the latest 100; None before there is one."""
        return {
            "episodes": self.num_episodes,
            "episode_return": float(np.mean(self._recent_returns)) if self._recent_returns else None,
            "episode_length": float(np.mean(self._recent_lengths)) if self._recent_lengths else None,
        }

    def pop_means(self) -> dict[str, float]:
        """Return the means of the updates' figures since the last call, by name in order, and reset them."""
        means = {name: total / self._num_metrics for name, total in sorted(self._totals().items())}
        self._sums, self._read, self._num_metrics = {}, None, 0
        return means

    def _totals(self) -> dict[str, float]:
        """Read the sums in one copy from the device; until the next tick with updates there is no second one."""
        if self._read is None:
            values = torch.stack([total.reshape(()) for total in self._sums.values()]).tolist() if self._sums else []
            self._read = dict(zip(self._sums, values, strict=True))
        return self._read

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state as JSON and tensors."""
        state = {
            "cuts": self.cuts,
            "num_episodes": self.num_episodes,
            "num_cut_episodes": self.num_cut_episodes,
            "owes_evaluation": self.owes_evaluation,
            "recent_returns": list(self._recent_returns),
            "recent_lengths": list(self._recent_lengths),
            "num_metrics": self._num_metrics,
        }
        return state, dict(self._sums)

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.cuts, self.num_episodes = list(state["cuts"]), state["num_episodes"]
        self.num_cut_episodes = state["num_cut_episodes"]
        self.owes_evaluation = state.get("owes_evaluation", False)  # in runs of before, none waited
        self._recent_returns.extend(state["recent_returns"])
        self._recent_lengths.extend(state["recent_lengths"])
        self._num_metrics = state["num_metrics"]
        self._sums, self._read = {name: tensor.to(self._device) for name, tensor in tensors.items()}, None


class BestNetwork:
    """The best network by evaluation so far, with its mean return and its step; ``online`` is the one that learns.

    ``network`` is never changed, only replaced, so it may be shared; it is None before the first evaluation.
    """

    def __init__(self, online: Network) -> None:
        self._online = online
        self.network: Network | None = None
        self.mean: float | None = None
        self.step = 0

    def challenge(self, network: Network, mean: float, step: int) -> bool:
        """Take a network that is at least as good, of equals the later one; returns whether it was taken.

        A mean of NaN is no good at all.
        """
        if math.isnan(mean) or (self.mean is not None and mean < self.mean):
            return False
        self.network, self.mean, self.step = network, mean, step
        return True

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state as JSON and tensors."""
        network = self.network
        state = {
            "mean": self.mean,
            "step": self.step,
            "input": None if network is None else input_statistics(network),
        }
        return state, {} if network is None else with_prefix("weights", network.state_dict())

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.mean, self.step = state["mean"], state["step"]
        if self.mean is None:
            return
        self.network = copy.deepcopy(self._online).eval()
        self.network.load_state_dict(strip_prefix("weights", tensors))
        if state["input"] is not None:
            self.network.set_input_statistics(**state["input"])
