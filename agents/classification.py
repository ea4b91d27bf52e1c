"""Classification: settings, and the learner that turns labelled minibatches into gradient steps.

The softmax of the network's output is a probability for each class; the loss is its cross-entropy with the labels. An
agent regresses the same kind of output on an expectation (dqn.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from torso.agents.augmentation import shifted
from torso.agents.gradient import (
    SCHEDULES,
    GradientStep,
    Precision,
    forward_in,
    make_optimizer,
    scheduled_learning_rate,
)
from torso.agents.states import strip_prefix, with_prefix
from torso.errors import CheckpointError, ConfigError
from torso.nets import NETS, InputSpec, LogitsHeadSpec, NetworkSpec, net_spec
from torso.nets.heads import LabelHead
from torso.nets.network import Network, build_network
from torso.nets.spec import ACTIVATIONS, Activation

_EVALUATION_ROWS = 1024  # rows of one forward when nothing is learnt from them


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Settings of a classifier, the same that `Classifier` takes."""

    net: str = "mlp"  # mlp, cnn, lenet or nature
    hidden: tuple[int, ...] | None = None  # widths of the fully connected layers; None: the net's own
    activation: Activation | None = None  # None: the net's own
    dropout: float | None = None  # share of features dropped (Srivastava et al. 2014); None: the net's own
    layer_norm: bool = False  # Ba et al. 2016
    max_epochs: int = 60  # passes over the training data
    batch_size: int = 32  # examples a gradient step
    learning_rate: float = 2e-3  # its peak
    schedule: Literal["constant", "cosine", "one-cycle"] = "one-cycle"  # Smith & Topin 2018
    weight_decay: float = 0.05  # decoupled (Loshchilov & Hutter 2019); 0 is plain Adam
    max_shift_px: int = 0  # training images are moved by up to so many pixels
    validation_fraction: float = 0.1  # of what fit() is given, to choose the best epoch by; scikit-learn's default
    patience: int | None = 20  # epochs without a better one before the fit ends; None: never
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of forward and backward; auto: bfloat16 where it pays
    device: str = "auto"  # auto, cpu or cuda
    num_threads: int | None = None  # of torch; None: 1 for small minibatches, which lose by more
    random_state: int | None = None  # everything random follows from it; None: drawn
    verbose: int = 0  # 1 shows a progress bar

    def __post_init__(self) -> None:
        if self.net not in NETS:
            raise ConfigError(f"unknown net {self.net!r}; known are {', '.join(NETS)}")
        if self.activation is not None and self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.hidden is not None:
            object.__setattr__(self, "hidden", tuple(self.hidden))
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if value is None and name in ("patience", "num_threads"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        for name in ("validation_fraction", "dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigError(f"{name} must lie in [0, 1), got {value}")
        if self.max_shift_px and self.net == "mlp":
            raise ConfigError("max_shift_px moves images, which net='mlp' does not see; use a convolutional net")

    @property
    def convolutional(self) -> bool:
        """Whether the net looks at images."""
        return self.net != "mlp"


_COUNTS = {"max_epochs": 1, "batch_size": 1, "max_shift_px": 0, "patience": 1, "num_threads": 1}  # and their least


class Labelled(NamedTuple):
    """Examples on the learner's device. inputs: [N, *shape] raw; labels: [N] int64."""

    inputs: Tensor
    labels: Tensor


class Score(NamedTuple):
    """How well a network labels: the share of right labels, and the mean cross-entropy in nats."""

    accuracy: float
    loss: float


def classifier_spec(config: ClassifierConfig, network_input: InputSpec, num_classes: int) -> NetworkSpec:
    """The network that a configuration asks for, given its input and the number of classes."""
    torso = net_spec(
        config.net,
        network_input,
        hidden=config.hidden,
        activation=config.activation,
        dropout=config.dropout,
        layer_norm=config.layer_norm,
    )
    return NetworkSpec(input=network_input, torso=torso, head=LogitsHeadSpec(num_classes=num_classes))


class ClassifierLearner:
    """A network, and the update that makes the labels of a minibatch more probable.

    ``total_updates`` is what the learning rate's schedule spans. What an update draws (dropout, shifts) comes from a
    generator that ``seed`` starts.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        network: Network,
        *,
        device: torch.device,
        precision: Precision,
        seed: int,
        total_updates: int,
    ) -> None:
        if not isinstance(network.head, LabelHead):
            raise ConfigError(f"a classifier needs a head that labels, got {type(network.head).__name__}")
        self.config, self.device, self.total_updates = config, device, total_updates
        self.network = network.to(device)
        if config.convolutional:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs
        self.head: LabelHead = network.head
        optimizer = make_optimizer(self.network, learning_rate=config.learning_rate, weight_decay=config.weight_decay)
        self.step = GradientStep(self.network, optimizer)
        self._forward = forward_in(self.network, precision)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.num_updates = 0

    @classmethod
    def build(
        cls,
        config: ClassifierConfig,
        spec: NetworkSpec,
        *,
        device: torch.device,
        precision: Precision,
        seed: int,
        total_updates: int,
    ) -> ClassifierLearner:
        """A learner whose first weights are drawn from the seed."""
        weights = torch.Generator().manual_seed(seed)
        network = build_network(spec, weights)
        noise_seed = int(torch.randint(2**62, (), generator=weights))
        return cls(config, network, device=device, precision=precision, seed=noise_seed, total_updates=total_updates)

    def update(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """One gradient step. inputs: [B, *shape] raw; labels: [B] int64. Returns the mean loss before it, detached."""
        config, layout = self.config, self.network.spec.input.layout
        if config.max_shift_px and layout is not None:
            inputs = shifted(inputs, config.max_shift_px, layout, self.generator)
        self.step.learning_rate = scheduled_learning_rate(
            config.schedule, config.learning_rate, self.num_updates, self.total_updates
        )
        self.num_updates += 1
        if not self.network.training:
            self.network.train()

        prediction, _ = self._forward(inputs, (), self.generator)
        return self.step(self.head.loss(prediction, labels).mean())

    def score(self, examples: Labelled) -> Score:
        """Label the examples as a served model would: in evaluation mode and float32."""
        return score(self.network, examples)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Weights, optimizer, generator and counter, for a checkpoint."""
        optimizer_state, optimizer_tensors = self.step.state()
        tensors = {
            **with_prefix("network", self.network.state_dict()),
            **with_prefix("optimizer", optimizer_tensors),
            "generator": self.generator.get_state(),
        }
        return {"num_updates": self.num_updates, "optimizer": optimizer_state}, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Become what ``state`` took; CheckpointError when it is of another network."""
        try:
            self.network.load_state_dict(strip_prefix("network", tensors))
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights do not fit this network: {error}") from error
        self.step.restore(state["optimizer"], strip_prefix("optimizer", tensors))
        self.generator.set_state(tensors["generator"])
        self.num_updates = state["num_updates"]


@torch.inference_mode()
def score(network: Network, examples: Labelled) -> Score:
    """Score a classifier on examples, in evaluation mode, some rows at a time."""
    head = network.head
    if not isinstance(head, LabelHead):
        raise ConfigError(f"a classifier needs a head that labels, got {type(head).__name__}")
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=examples.labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=examples.labels.device)
    for first in range(0, len(examples.labels), _EVALUATION_ROWS):
        inputs, labels = (part[first : first + _EVALUATION_ROWS] for part in examples)
        prediction, _ = network(inputs)
        right += (head.readout(prediction).argmax(dim=1) == labels).sum()
        loss += head.loss(prediction, labels).sum()
    return Score(accuracy=int(right) / len(examples.labels), loss=float(loss) / len(examples.labels))
