"""Settings of a network of the plane and of its training, as a tab chooses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torso.checks import assign, choice, each, fraction, number, positive, whole
from torso.errors import ConfigError
from torso.nets.specs.torsos import ACTIVATIONS
from torso.playground.plane.points import MOST_CLASSES

if TYPE_CHECKING:
    from torso.agents.supervised.config import ClassifierConfig

MOST_LAYERS, MOST_UNITS_A_LAYER = 4, 32
# agents/optim/optimizers.py has them, but imports torch, and the page comes up before that.
PLANE_OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "radam")
REGULARISATIONS = ("none", "l1", "l2", "dropout", "weight_decay")


@dataclass(frozen=True, kw_only=True)
class PlaneSettings:
    """Settings of one training in the plane. SpecError or ConfigError for one that cannot work."""

    hidden: tuple[int, ...] = (8, 8)
    """Units of each hidden layer, at most 32, of at most 4 layers; none: logistic or softmax regression."""
    activation: str = "tanh"
    """Activation function of the hidden units."""
    optimizer: str = "adam"
    """Optimizer of the weights."""
    learning_rate: float = 0.01
    """Learning rate, constant."""
    regularisation: str = "none"
    """Regularisation: an L1 or L2 penalty, dropout of hidden units, AdamW's weight decay, or none."""
    strength: float = 0.0
    """Strength of the regularisation: the penalty's factor, the share that is dropped, or the decay."""
    batch_size: int = 16
    """Points in each gradient step; the last step of an epoch may have fewer."""
    num_classes: int = 2
    """Number of classes."""
    seed: int = 1
    """Seed of the first weights, of the points' order and of dropout."""

    def __post_init__(self) -> None:
        assign(
            self,
            hidden=each("hidden", self.hidden, lambda name, value: whole(name, value, most=MOST_UNITS_A_LAYER)),
            learning_rate=positive("learning_rate", self.learning_rate),
            strength=number("strength", self.strength),
            batch_size=whole("batch_size", self.batch_size),
            num_classes=whole("num_classes", self.num_classes, least=2, most=MOST_CLASSES),
            seed=whole("seed", self.seed, least=0),
        )
        if len(self.hidden) > MOST_LAYERS:
            raise ConfigError(f"hidden must have at most {MOST_LAYERS} layers, got {len(self.hidden)}")
        choice("activation", self.activation, ACTIVATIONS)
        choice("optimizer", self.optimizer, PLANE_OPTIMIZERS)
        choice("regularisation", self.regularisation, REGULARISATIONS)
        if self.strength < 0:
            raise ConfigError(f"strength must be at least 0, got {self.strength}")
        if self.regularisation == "dropout":
            fraction("strength of dropout", self.strength)
            if not self.hidden:
                raise ConfigError("dropout must have a hidden layer, got none; add one, or choose another")
        if self.regularisation == "weight_decay" and self.optimizer != "adamw":
            raise ConfigError(f"weight decay must go with adamw, got {self.optimizer}; choose l2, or adamw")

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> PlaneSettings:
        """Read the settings among a message's fields; what is left out has its default."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__ if name in fields})

    def classifier_config(self) -> ClassifierConfig:
        """Convert to the settings of a classifier that is fitted with a constant learning rate."""
        from torso.agents.supervised.config import ClassifierConfig

        of_layers = {"hidden": self.hidden, "activation": self.activation}
        chosen: dict[str, Any] = {"net": "mlp", **of_layers} if self.hidden else {"net": self.linear_net}
        if self.regularisation != "none":
            chosen[self.regularisation] = self.strength
        if self.optimizer == "adamw":
            chosen.setdefault("weight_decay", 0.0)
        return ClassifierConfig(
            optimizer=self.optimizer,  # type: ignore[arg-type]  # checked above
            learning_rate=self.learning_rate,
            schedule="constant",
            batch_size=self.batch_size,
            device="cpu",
            precision="float32",
            num_threads=1,
            **chosen,
        )

    @property
    def linear_net(self) -> str:
        """Name of the net without a hidden layer: one neuron for two classes, or softmax regression."""
        return "logistic" if self.num_classes == 2 else "softmax"
