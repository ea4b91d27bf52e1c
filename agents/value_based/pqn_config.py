"""PQN settings and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torso.agents.value_based.training_config import SHARED_CHECKS, Check, TrainingConfig, one_of
from torso.checks import count, flag, positive, share
from torso.errors import ConfigError
from torso.nets.modules.initialisation import Init
from torso.nets.specs.torsos import LayerNormKind


@dataclass(frozen=True, kw_only=True)
class PQNConfig(TrainingConfig):
    """Settings of PQN (Gallici et al. 2024). A step is one action of one env, whatever the number of envs."""

    agent = "PQN"

    algorithm: Literal["pqn"] = "pqn"
    """Algorithm: pqn."""
    num_envs: int = 32
    """Envs stepped together, each of which adds its steps to a rollout."""
    layer_norm: bool = True
    """Layer normalisation after each layer (Ba et al. 2016), in place of a target network."""
    layer_norm_kind: LayerNormKind = "channels"
    """Layer normalisation after a convolution: channels (over the channels of each pixel, as Gallici et al. have it),
    elements (over channels and pixels, with a scale and an offset for each element, as CleanRL has it) or image (as
    elements, but a scale and an offset for each channel)."""
    learning_rate: float = 2.5e-4
    """Learning rate of the optimizer, RAdam (Liu et al. 2020)."""
    rollout_steps: int = 32
    """Steps of each env in a rollout, which is learnt from and then forgotten."""
    epochs: int = 2
    """Times that each step of a rollout is learnt from."""
    num_minibatches: int = 16
    """Gradient steps of an epoch: minibatches into which the rollout's steps are divided at random."""
    trace_decay: float = 0.65
    """Lambda of Q(lambda): 0 bootstraps after each step, 1 only at the rollout's end (Peng & Williams 1996)."""
    reward_factor: float = 1.0
    """Factor on rewards in targets; reported returns are the env's own."""
    overlap: bool = False
    """Learn from a rollout while the next one is made, on a CPU: acting has one of the threads and weights of a rollout
    before, learning the other threads. It pays where steps of the envs leave Python's lock, as Atari's do."""
    init: Init = "he"
    """Initial weights: he, orthogonal, xavier, normal, zeros or default (PyTorch's own)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        num_steps = self.rollout_steps * self.num_envs
        if num_steps % self.num_minibatches:
            raise ConfigError(
                f"num_minibatches must divide the {num_steps:,} steps of a rollout, rollout_steps times num_envs, got "
                f"{self.num_minibatches}"
            )
        if self.overlap and self.normalise_observations:
            raise ConfigError(
                "overlap must be False with normalise_observations, whose moments change while it learns, got True"
            )

    head_name = "scalar"
    head_has_layers = False

    @property
    def head_settings(self) -> dict[str, Any]:
        """Half the squared error, as the authors have it."""
        return {"huber_delta": None}

    @classmethod
    def checks(cls) -> Mapping[str, Check]:
        """Check of each setting, by name."""
        return _CHECKS

    @classmethod
    def upgrade_settings(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Bring recorded settings to the form of today; they keep their meaning."""
        return {"executor": "auto", "overlap": False, **settings}

    def with_algorithm(self, name: str) -> PQNConfig:
        """Return the configuration itself for pqn; ConfigError for another algorithm, whose settings are others."""
        if name != self.algorithm:
            raise ConfigError(f"algorithm must be pqn for settings of PQN, got {name!r}; give DQNConfig's settings")
        return self

    @property
    def minibatch_rows(self) -> int:
        """Steps of a gradient step."""
        return self.steps_to_first_update // self.num_minibatches

    @property
    def steps_to_first_update(self) -> int:
        """Steps before the first update: a rollout's."""
        return self.rollout_steps * self.num_envs

    def nothing_learnt(self) -> str:
        """Say when the first update comes."""
        return f"at the end of a rollout, {self.rollout_steps:,} steps of each of {self.num_envs} envs"


_CHECKS: dict[str, Check] = {
    **SHARED_CHECKS,
    "algorithm": one_of("pqn"),
    **dict.fromkeys(("rollout_steps", "epochs", "num_minibatches"), count),
    "trace_decay": share,
    "reward_factor": positive,
    "overlap": flag,
}
