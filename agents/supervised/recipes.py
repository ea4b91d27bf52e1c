"""Default training recipes by net: optimizer, learning rate, minibatches, epochs, first weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from torso.nets.modules.initialisation import Init
from torso.nets.specs.named_torsos import registered_nets, unknown_net

BatchSize = int | Literal["full"]

# The learning rate of an optimizer that is not the recipe's own.
_LEARNING_RATES = {
    "sgd": 0.1,
    "momentum": 0.02,
    "nesterov": 0.02,
    "adagrad": 0.01,
    "adadelta": 1.0,  # Zeiler 2012 has no learning rate; 1 is none
    "rmsprop": 1e-3,
    "adam": 2e-3,
    "adamw": 2e-3,
    "radam": 2e-3,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Training settings of one kind of network."""

    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    """Its peak."""
    weight_decay: float = 0.05
    schedule: str = "one-cycle"
    batch_size: BatchSize = 32
    max_epochs: int = 60
    init: Init = "default"

    def with_overrides(self, settings: dict[str, Any]) -> Recipe:
        """Copy this recipe with ``settings`` in place of its own; None keeps its own.

        Another optimizer brings a learning rate of its own, and no weight decay unless it is AdamW.
        """
        overrides = {name: value for name, value in settings.items() if name in _FIELDS and value is not None}
        optimizer = overrides.get("optimizer", self.optimizer)
        if optimizer != self.optimizer:
            overrides.setdefault("learning_rate", _LEARNING_RATES.get(optimizer, self.learning_rate))
            overrides.setdefault("weight_decay", 0.05 if optimizer == "adamw" else 0.0)
        return replace(self, **overrides)

    def to_json(self) -> dict[str, Any]:
        """Convert the recipe to plain data."""
        return asdict(self)


_FIELDS = frozenset(Recipe.__dataclass_fields__)

_LINEAR = Recipe(optimizer="adam", learning_rate=0.03, weight_decay=0.0, schedule="cosine")
_IMAGES = Recipe(batch_size=128, max_epochs=20, learning_rate=3e-3)

RECIPES = {
    # Rosenblatt 1958: from zeros, one example at a time; the size of the steps changes nothing but the weights' scale.
    "perceptron": Recipe(
        optimizer="sgd",
        learning_rate=1.0,
        weight_decay=0.0,
        schedule="constant",
        batch_size=1,
        max_epochs=30,
        init="zeros",
    ),
    "logistic": _LINEAR,
    "softmax": _LINEAR,
    "linear": _LINEAR,
    "mlp": Recipe(),
    "lenet": _IMAGES,
    "cnn": Recipe(),
    "vgg": _IMAGES,
    "nature": _IMAGES,
    "nips": _IMAGES,
    "minatar": _IMAGES,
}
"""Recipes by the net's name."""

# By data set and net: settings tuned for this data set. Chosen on validation data, never on test data.
_MNIST: dict[str, dict[str, Any]] = {
    "cnn": {
        "batch_size": 128,
        "max_epochs": 3,
        "learning_rate": 4e-3,
        "weight_decay": 0.02,
        "label_smoothing": 0.05,
    },
    "vgg": {
        "batch_size": 128,
        "max_epochs": 30,
        "learning_rate": 4e-3,
        "weight_decay": 0.02,
        "label_smoothing": 0.05,
        "max_shift_px": 2.0,
        "max_rotation_deg": 12.0,
        "max_scale": 0.12,
        "elastic_px": 0.8,
        "patience": None,
    },
    "lenet": {"batch_size": 128, "max_epochs": 20, "learning_rate": 3e-3, "max_shift_px": 1.0},
    "mlp": {"hidden": (1024, 1024), "dropout": 0.5, "batch_size": 128, "max_epochs": 20, "learning_rate": 1e-3},
    "softmax": {"batch_size": 128, "max_epochs": 10, "learning_rate": 2e-3},
}
_OF_DATASETS = {("mnist", net): settings for net, settings in _MNIST.items()}


def fit_preset(net: str, dataset: str | None = None) -> dict[str, Any]:
    """Settings that ``torso fit`` starts from: the net's recipe, with the data set's changes.

    Raises:
        ConfigError: an unknown net.
    """
    if net not in RECIPES and net not in registered_nets():
        raise unknown_net(net, tuple(RECIPES))
    return {"net": net, **recipe_of(net).to_json(), **_OF_DATASETS.get((dataset or "", net), {})}


def recipe_of(net: str) -> Recipe:
    """Return a net's recipe; a registered torso's is that of mlp."""
    return RECIPES.get(net, RECIPES["mlp"])
