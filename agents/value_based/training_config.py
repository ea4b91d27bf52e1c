"""Settings that all agents of the DQN family have, with their checks and schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

from torso.agents.optim.executors import EXECUTOR_SETTINGS
from torso.agents.optim.memory_formats import MEMORY_FORMAT_SETTINGS
from torso.agents.optim.schedules import linear
from torso.checks import choice, count, each, flag, number, optional, path, positive, share, text, whole
from torso.errors import ConfigError
from torso.image_layout import FLAT, LAYOUTS, LEGACY
from torso.nets import NETS
from torso.nets.modules.initialisation import INITS, Init
from torso.nets.specs.named_torsos import registered_fields, registered_nets, unknown_net
from torso.nets.specs.torsos import ACTIVATIONS, LAYER_NORM_KINDS, Activation, LayerNormKind

Check = Callable[[str, object], Any]
_NETS = tuple(net for net in NETS if net != "linear")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ABC):
    """Settings of an agent. A step is one action of one env, whatever the number of envs."""

    agent: ClassVar[str]
    """Name of the agent's class, in `torso.agents`."""
    optional_names: ClassVar[Collection[str]] = ()
    """Settings that are None until another one decides them."""
    never_preset: ClassVar[Collection[str]] = ()
    """Settings that no preset sets, so that one which is of no use was given by the user."""

    algorithm: str
    """Name of the algorithm."""
    net: str = "auto"
    """Architecture of the network: mlp, cnn, lenet, nature, nips, minatar or vgg, or a registered one; auto: nature
    for images of at least 36 pixels a side, cnn for smaller ones, mlp for vectors."""
    layout: str | None = None
    """Layout of observations: hw, chw, hwc, tchw or thwc for images (t: a stack of them), flat for vectors; None: by
    their shape and the space's bounds."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the fully connected layers."""
    activation: Activation = "relu"
    """Activation function between layers."""
    layer_norm: bool = False
    """Layer normalisation after each layer (Ba et al. 2016)."""
    layer_norm_kind: LayerNormKind = "image"
    """Layer normalisation after a convolution: image (over channels and pixels, with a scale and an offset for each
    channel), channels (over the channels of each pixel, as flax's and in Gallici et al. 2024) or elements (as image,
    but a scale and an offset for each element)."""
    init: Init = "default"
    """Initial weights: PyTorch's default, zeros, normal, xavier, he or orthogonal."""
    init_torso: str | None = None
    """A run or model directory whose torso the network begins with; None: random weights."""
    freeze_torso: bool = False
    """Keep the torso of init_torso as it is: only the head learns."""
    normalise_observations: bool = False
    """Normalise flat observations by their running mean and deviation, which the model keeps."""
    num_envs: int = 1
    """Envs stepped together; all other settings keep their meaning, and steps are those of all envs together."""
    gamma: float = 0.99
    """Discount factor of rewards, for each step (Mnih et al. 2015)."""
    clip_rewards: bool = False
    """Clip rewards to [-1, 1] in TD targets; reported returns are never clipped (Mnih et al. 2015)."""
    normalise_rewards: bool = False
    """Divide rewards in TD targets, clipped first if at all, by the running deviation of the discounted return."""
    learning_rate: float = 5e-4
    """Learning rate of the optimizer."""
    learning_rate_end: float | None = None
    """Learning rate to which it falls linearly over learning_rate_decay_steps; None: it stays as it is."""
    learning_rate_decay_steps: int = 100_000
    """Steps over which the learning rate falls from learning_rate to learning_rate_end."""
    max_grad_norm: float | None = 10.0
    """Largest norm of the gradient; a longer one is scaled down to it (Wang et al. 2016); None: no limit."""
    epsilon_start: float = 1.0
    """Probability of a random action at step 0."""
    epsilon_end: float = 0.05
    """Probability of a random action after epsilon_decay_steps."""
    epsilon_decay_steps: int = 10_000
    """Steps over which the probability of a random action falls from epsilon_start to epsilon_end."""
    evaluation_period: int | None = 5_000
    """Steps between evaluations, which decide on the best network; None: never, and the latest is kept."""
    evaluation_episodes: int = 20
    """Greedy episodes in each evaluation."""
    evaluation_envs: int = 32
    """Most envs that an evaluation steps together, beside those of the training; 0: num_envs, in place of those."""
    evaluation_max_steps: int = 27_000
    """Steps after which an episode of an evaluation is truncated; 27,000 are 30 minutes of Atari."""
    checkpoint_period: int | None = None
    """Steps between checkpoints; None: 20,000 of each env."""
    stop_return: float | None = None
    """End the training once the mean return of an evaluation reaches this; None: train all steps."""
    log_period: int = 1_000
    """Steps between lines of progress.jsonl."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of forward and backward passes: float32, bfloat16, or auto: bfloat16 where it is faster."""
    memory_format: Literal["auto", "contiguous", "channels-last"] = "auto"
    """Memory format of images in convolutions: contiguous, channels-last, or auto: channels-last where updates on this
    machine are a tenth faster with it, as measured at the start of the run."""
    executor: Literal["auto", "eager", "graph"] = "auto"
    """Executor of gradient steps: eager (as they stand), graph (captured once as a CUDA graph and replayed, on CUDA
    alone), or auto: graph on CUDA, eager elsewhere."""
    device: str = "auto"
    """Device of the networks and of what they learn from: auto, cpu or cuda."""
    num_threads: int = 1
    """Threads of PyTorch on the CPU; small networks run slower with more."""

    def __post_init__(self) -> None:
        for name, check in self.checks().items():
            if getattr(self, name) is not None or name not in self.optional_names:
                object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.net not in ("auto", *_NETS, *registered_nets()):
            raise unknown_net(self.net, _NETS)
        if self.stop_return is not None and self.evaluation_period is None:
            raise ConfigError(
                f"stop_return must be None without evaluations, which alone can reach it, got {self.stop_return}; give "
                "evaluation_period"
            )
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

    @classmethod
    @abstractmethod
    def checks(cls) -> Mapping[str, Check]:
        """Check of each setting, by name, which returns its value in the form that is kept."""

    @classmethod
    @abstractmethod
    def upgrade_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Bring recorded settings to the form of today; they keep their meaning."""

    @abstractmethod
    def with_algorithm(self, name: str) -> Self:
        """Copy the configuration for another algorithm of the same settings; ConfigError for any other."""

    @property
    @abstractmethod
    def head_name(self) -> str:
        """Registered head of the network."""

    @property
    @abstractmethod
    def head_settings(self) -> dict[str, Any]:
        """Settings that the head's specification may have fields for, those that are left to the head aside."""

    @property
    @abstractmethod
    def head_has_layers(self) -> bool:
        """Whether the last of the hidden layers is the head's."""

    @property
    @abstractmethod
    def steps_to_first_update(self) -> int:
        """Steps before the first update."""

    @abstractmethod
    def nothing_learnt(self) -> str:
        """Say when the first update comes, for a run that ended before it."""

    @classmethod
    def from_recorded(cls, settings: Mapping[str, Any]) -> Self:
        """Build the configuration of recorded settings, of this version or an older one.

        Raises TypeError for a setting that is not known.
        """
        return cls(**cls.upgrade_settings(settings))

    def require_used(self, given: Collection[str]) -> None:
        """Raise ConfigError where one of the settings ``given`` is of no use to the algorithm, its head or its net.

        A preset's values for a net are not refused with a registered one: they are for torso's own nets.
        """
        for name in given:
            reason = self.reason_unused(name)
            if reason:
                raise ConfigError(f"{name} must be left out {reason}, got {getattr(self, name)!r}")

    def require_used_by_algorithm(self) -> None:
        """Raise ConfigError where a setting that is not at its default is of no use to the algorithm."""
        defaults = type(self).__dataclass_fields__
        self.require_used([name for name in self.never_preset if getattr(self, name) != defaults[name].default])

    def is_used(self, name: str) -> bool:
        """Whether a setting is of use to the algorithm, its head or its net."""
        return not self.reason_unused(name)

    def reason_unused(self, name: str) -> str:
        """Say why a setting is of no use; empty where it is of use."""
        if name == "learning_rate_decay_steps" and self.learning_rate_end is None:
            return "without learning_rate_end"
        if name == "layer_norm_kind" and not self.layer_norm:
            return "without layer_norm"
        if name in ("hidden", "activation", "layer_norm", "layer_norm_kind") and self.net in registered_nets():
            is_width_of_head = name == "hidden" and self.head_has_layers and len(self.hidden) <= 1
            if name not in registered_fields(self.net) and not is_width_of_head:
                return f"for net {self.net!r}, whose specification has no such field"
        return ""

    @property
    def steps_between_checkpoints(self) -> int:
        """``checkpoint_period``, or its default of 20,000 steps of each env."""
        return self.checkpoint_period or 20_000 * self.num_envs

    @property
    def most_evaluation_envs(self) -> int:
        """Envs of an evaluation at a time: ``evaluation_envs``, or ``num_envs`` where they take the place of those."""
        return self.evaluation_envs or self.num_envs

    def epsilon(self, step: int) -> float:
        """Probability of a uniformly random action at a step."""
        return linear(step, start=self.epsilon_start, end=self.epsilon_end, num_steps=self.epsilon_decay_steps)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate at a step."""
        start, num_steps = self.learning_rate, self.learning_rate_decay_steps
        end = start if self.learning_rate_end is None else self.learning_rate_end
        return linear(step, start=start, end=end, num_steps=num_steps)


def one_of(*known: str) -> Check:
    """Return the check of a setting that is one of some words."""

    def check(name: str, value: object) -> object:
        choice(name, value, known)
        return value

    return check


SHARED_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("algorithm", "net", "device"), text),
    "layout": optional(one_of(*LAYOUTS, FLAT, LEGACY)),
    **dict.fromkeys(
        (
            *("num_envs", "learning_rate_decay_steps", "epsilon_decay_steps"),
            *("evaluation_episodes", "evaluation_max_steps", "log_period", "num_threads"),
        ),
        count,
    ),
    "evaluation_envs": partial(whole, least=0, most=None),
    **dict.fromkeys(("gamma", "epsilon_start", "epsilon_end"), share),
    "learning_rate": positive,
    **dict.fromkeys(("max_grad_norm", "learning_rate_end"), optional(positive)),
    **dict.fromkeys(
        ("layer_norm", "freeze_torso", "normalise_observations", "clip_rewards", "normalise_rewards"), flag
    ),
    "hidden": lambda name, value: each(name, value, whole),
    "activation": one_of(*ACTIVATIONS),
    "init": one_of(*INITS),
    "layer_norm_kind": one_of(*LAYER_NORM_KINDS),
    "precision": one_of("auto", "float32", "bfloat16"),
    "memory_format": one_of(*MEMORY_FORMAT_SETTINGS),
    "executor": one_of(*EXECUTOR_SETTINGS),
    "init_torso": optional(path),
    **dict.fromkeys(("checkpoint_period", "evaluation_period"), optional(count)),
    "stop_return": optional(number),
}
"""Checks of the settings that all agents have."""
