"""DQN settings, their checks and schedules."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from torso.agents.optim.schedules import linear
from torso.errors import ConfigError
from torso.nets import NETS
from torso.nets.specs.named_torsos import registered_fields, registered_nets, unknown_net
from torso.nets.specs.torsos import ACTIVATIONS, Activation

_NETS = tuple(net for net in NETS if net != "linear")


@dataclass(frozen=True, kw_only=True)
class DQNConfig:
    """Settings of DQN. A step is one action of one env, whatever the number of envs."""

    net: str = "mlp"
    """Torso architecture: mlp, cnn, lenet, nature, minatar or vgg; or a registered one."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the fully connected layers."""
    activation: Activation = "relu"
    """Activation function between layers."""
    layer_norm: bool = False
    """Layer normalisation after each layer (Ba et al. 2016)."""
    init_torso: str | None = None
    """A run or model directory whose torso this one begins as."""
    freeze_torso: bool = False
    """Keep that torso as it is: only the head learns."""
    normalise_observations: bool = False
    """Normalise flat observations by their running mean and deviation, which the model keeps."""
    num_envs: int = 1
    """Envs stepped together; no other setting changes its meaning with it."""
    gamma: float = 0.99
    """Discount factor of a step (Mnih et al. 2015)."""
    n_step: int = 1
    """Rewards in a target before it bootstraps (Sutton 1988; Hessel et al. 2018)."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1], in targets alone (Mnih et al. 2015)."""
    learning_rate: float = 5e-4
    """Learning rate of Adam."""
    learning_rate_end: float | None = None
    """Learning rate after the decay; None: it does not decay."""
    learning_rate_decay_steps: int = 100_000
    """Steps of the linear decay from start to end."""
    adam_eps: float = 1e-8
    """Adam's epsilon (Kingma & Ba 2015)."""
    max_grad_norm: float | None = 10.0
    """Norm to which a longer gradient is clipped (Wang et al. 2016); None: never."""
    huber_delta: float | None = 1.0
    """TD error beyond which the loss is linear (Mnih et al. 2015); None: squared error."""
    batch_size: int = 64
    """Transitions in a gradient step."""
    replay_capacity: int = 100_000
    """Steps that the replay holds."""
    min_replay_size: int = 1_000
    """Steps before the first update."""
    learn_period: int = 4
    """Steps from one learning phase to the next (Mnih et al. 2015)."""
    updates_per_phase: int = 1
    """Gradient steps in a learning phase."""
    target_update_period: int = 1_000
    """Steps between updates of the target network."""
    target_update_rate: float = 1.0
    """Share of the way to the online network in each update; 1: a copy (Mnih et al. 2015)."""
    double: bool = False
    """The online network picks the next action, the target network values it (van Hasselt 2016)."""
    dueling: bool = False
    """A value and an advantage stream, each with the last of the hidden layers (Wang et al. 2016)."""
    prioritized: bool = False
    """Sample in proportion to TD errors instead of evenly (Schaul et al. 2016)."""
    priority_exponent: float = 0.6
    """Exponent of TD errors as priorities; 0: evenly (Schaul et al. 2016)."""
    importance_start: float = 0.4
    """Exponent of importance weights at step 0; 1: the bias of priorities is fully corrected."""
    importance_end: float = 1.0
    """Exponent of importance weights after the last of importance_steps."""
    importance_steps: int = 100_000
    """Steps of the linear schedule from start to end."""
    epsilon_start: float = 1.0
    """Probability of a random action at step 0."""
    epsilon_end: float = 0.05
    """Probability of a random action after the decay."""
    epsilon_decay_steps: int = 10_000
    """Steps of the linear decay from start to end."""
    evaluation_period: int = 5_000
    """Steps between evaluations."""
    evaluation_episodes: int = 20
    """Greedy episodes in an evaluation."""
    checkpoint_period: int | None = None
    """Steps between checkpoints; None: 20,000 of each env."""
    stop_return: float | None = None
    """End the training once an evaluation's mean return reaches this."""
    log_period: int = 1_000
    """Steps between lines of progress.jsonl."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of forward and backward; auto: bfloat16 where it pays."""
    device: str = "auto"
    """Device of the networks and the replay: auto, cpu or cuda."""
    num_threads: int = 1
    """Torch's threads; small networks run slower with more."""

    def __post_init__(self) -> None:
        if self.net not in (*_NETS, *registered_nets()):
            raise unknown_net(self.net, _NETS)
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("learning_rate", "adam_eps", "max_grad_norm", "huber_delta", "learning_rate_end"):
            value = getattr(self, name)
            may_be_none = name in ("max_grad_norm", "huber_delta", "learning_rate_end")
            if not (may_be_none if value is None else 0 < value < math.inf):
                raise ConfigError(f"{name} must be positive and finite, got {value}")
        if self.checkpoint_period is not None and self.checkpoint_period < 1:
            raise ConfigError(f"checkpoint_period must be at least 1 step, got {self.checkpoint_period}")
        if self.target_update_rate == 0:
            raise ConfigError("target_update_rate must be above 0, or the target network would never learn, got 0")
        if self.freeze_torso and self.init_torso is None:
            raise ConfigError(
                "freeze_torso must be False without init_torso, or random weights would be frozen, got True; "
                "give init_torso"
            )
        if self.normalise_observations and self.init_torso is not None:
            raise ConfigError(
                "normalise_observations must be False with init_torso, which has its own input scaling, got True; "
                "leave out normalise_observations"
            )
        if self.dueling and not self.hidden and self.net == "mlp":
            raise ConfigError(
                "hidden must have at least one layer with dueling, whose streams it forms, got (); "
                "give hidden at least one"
            )
        if self.min_replay_size > self.replay_capacity:
            raise ConfigError(
                f"min_replay_size must be at most replay_capacity {self.replay_capacity}, or it is never reached, got "
                f"{self.min_replay_size}"
            )
        if self.min_replay_size <= self.n_step * self.num_envs:
            raise ConfigError(
                f"min_replay_size must be more than n_step times num_envs, since a step is sampled once those "
                f"after it were made; got {self.min_replay_size} for {self.n_step} of {self.num_envs} envs"
            )
        minimum = (self.n_step + 2) * self.num_envs
        if self.replay_capacity < minimum:
            raise ConfigError(
                f"replay_capacity must hold at least {self.n_step + 2} steps of each env, {minimum} in all, got "
                f"{self.replay_capacity}"
            )

    def require_used(self, given: Collection[str]) -> None:
        """Raise ConfigError where one of the settings ``given`` is of no use in a registered net.

        A preset's values for them are not refused: they are for torso's own nets.
        """
        if self.net not in registered_nets():
            return
        used = set(registered_fields(self.net))
        if self.dueling and len(self.hidden) <= 1:
            used.add("hidden")  # the width of the dueling streams
        for name in ("hidden", "activation", "layer_norm"):
            if name in given and name not in used:
                raise ConfigError(
                    f"{name} must be left out for net {self.net!r}, whose specification has no such field, got "
                    f"{getattr(self, name)!r}"
                )

    @property
    def steps_between_checkpoints(self) -> int:
        """``checkpoint_period``, or its default of 20,000 steps of each env."""
        return self.checkpoint_period or 20_000 * self.num_envs

    def epsilon(self, step: int) -> float:
        """Probability of a uniformly random action at a step."""
        return linear(step, start=self.epsilon_start, end=self.epsilon_end, num_steps=self.epsilon_decay_steps)

    def importance(self, step: int) -> float:
        """Exponent of the importance weights at a step."""
        return linear(step, start=self.importance_start, end=self.importance_end, num_steps=self.importance_steps)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate at a step."""
        start, num_steps = self.learning_rate, self.learning_rate_decay_steps
        end = start if self.learning_rate_end is None else self.learning_rate_end
        return linear(step, start=start, end=end, num_steps=num_steps)


_SHARES = (
    "gamma",
    "epsilon_start",
    "epsilon_end",
    "target_update_rate",
    "priority_exponent",
    "importance_start",
    "importance_end",
)
_COUNTS = (
    "num_envs",
    "n_step",
    "learning_rate_decay_steps",
    "importance_steps",
    "batch_size",
    "replay_capacity",
    "min_replay_size",
    "learn_period",
    "updates_per_phase",
    "target_update_period",
    "epsilon_decay_steps",
    "evaluation_period",
    "evaluation_episodes",
    "log_period",
    "num_threads",
)
