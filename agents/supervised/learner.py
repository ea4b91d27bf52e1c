"""Supervised learner: network specification from a configuration, gradient updates on minibatches, scores.

The network's output is a probability for each class, or a number for each target; the loss is the head's own. An agent
regresses the same kind of output on an expectation (``value_based/learner.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torso.agents.optim.devices import Precision
from torso.agents.optim.gradient_step import GradientStep
from torso.agents.optim.optimizers import make_optimizer
from torso.agents.optim.penalties import penalty
from torso.agents.optim.schedules import scheduled_learning_rate
from torso.agents.optim.states import strip_prefix, with_prefix
from torso.agents.supervised.augmentation import augmented
from torso.agents.supervised.config import DEFAULT_NET, LINEAR, ClassifierConfig, FitConfig
from torso.agents.supervised.recipes import Recipe
from torso.errors import CheckpointError, ConfigError
from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    MLPSpec,
    NetworkSpec,
    OneVsRestHeadSpec,
    SigmoidHeadSpec,
    StepHeadSpec,
    freeze_torso,
    load_torso,
    net_spec,
    read_source,
    take_torso,
)
from torso.nets.modules.heads import LabelHead, TargetHead
from torso.nets.modules.layers import MemoryFormat
from torso.nets.modules.network import Network, build_network
from torso.nets.specs.named_heads import head_spec, require_head

_EVALUATION_ROWS = 1024  # rows of one forward when nothing is learnt from them


class Examples(NamedTuple):
    """Batch of examples: inputs, targets, weights.

    inputs: [N, *shape] raw. targets: [N] int64 labels, or [N, K] float32 for regression. weights: [N] float32, each
    example's weight in the loss, or None where all count the same.
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Examples:
        """Move the examples to a device."""
        weights = None if self.weights is None else self.weights.to(device)
        return Examples(self.inputs.to(device), self.targets.to(device), weights)

    def take(self, rows: Tensor) -> Examples:
        """Select rows by index."""
        weights = None if self.weights is None else self.weights.index_select(0, rows)
        return Examples(self.inputs.index_select(0, rows), self.targets.index_select(0, rows), weights)


class Score(NamedTuple):
    """Score of a network: the mean loss, and the accuracy or, in regression, R^2.

    The loss is a cross-entropy in nats for classifiers, and for regressors the mean over the examples of the sum of
    squared errors, in standard deviations of the targets.
    """

    loss: float
    accuracy: float | None = None
    r2: float | None = None

    @property
    def quality(self) -> float:
        """Criterion of the best epoch: more is better."""
        return -self.loss if self.accuracy is None else self.accuracy

    def text(self) -> str:
        """Format the accuracy or R^2."""
        return f"R² {self.r2:.4f}" if self.accuracy is None else f"{self.accuracy:.2%}"


def classifier_spec(config: ClassifierConfig, network_input: InputSpec, num_classes: int) -> NetworkSpec:
    """Build a classifier's network specification from a configuration, its input and the number of classes."""
    loss, smoothing = config.loss_for(num_classes), config.label_smoothing
    head: Any
    if config.head is not None:
        require_head(config.head, "classifier")
        head = head_spec(config.head, {"num_classes": num_classes, "label_smoothing": smoothing})
    elif loss == "softmax":
        head = LogitsHeadSpec(num_classes=num_classes, label_smoothing=smoothing)
    elif loss == "one-vs-rest":
        head = OneVsRestHeadSpec(num_classes=num_classes, label_smoothing=smoothing)
    elif loss == "perceptron":
        head = StepHeadSpec()
    else:
        head = SigmoidHeadSpec(loss="cross-entropy" if loss == "binary" else "logistic", label_smoothing=smoothing)
    return _network_spec(config, network_input, head)


def regressor_spec(
    config: FitConfig, network_input: InputSpec, mean: tuple[float, ...], std: tuple[float, ...]
) -> NetworkSpec:
    """Build a regressor's network specification; its outputs are scaled by the targets' mean and deviation."""
    name = config.head or "regression"
    require_head(name, "regressor")
    head = head_spec(name, {"num_targets": len(mean), "mean": mean, "std": std})
    return _network_spec(config, network_input, head)


def takes_images(config: FitConfig) -> bool:
    """Whether the configuration's network takes rows of a square number of pixels as images."""
    if config.init_torso is None:
        return config.convolutional
    return read_source(config.init_torso).network.input.layout is not None


def _network_spec(config: FitConfig, network_input: InputSpec, head: Any) -> NetworkSpec:
    if config.init_torso is None:
        return NetworkSpec(input=network_input, torso=_torso_spec(config, network_input), head=head)
    any_torso = NetworkSpec(input=network_input, torso=MLPSpec(), head=head)
    spec = take_torso(any_torso, config.init_torso, dropout=config.dropout)
    if spec.input.layout is None and not config.augmentation.is_identity:
        raise ConfigError(
            f"shifts, rotations, scaling and elastic bends are for images, which {config.init_torso} does not take"
        )
    return spec


def _torso_spec(config: FitConfig, network_input: InputSpec) -> Any:
    if config.net in LINEAR:
        return net_spec("linear", network_input)
    return net_spec(
        config.net or DEFAULT_NET,
        network_input,
        hidden=config.hidden,
        activation=config.activation,
        dropout=config.dropout,
        layer_norm=config.layer_norm,
        batch_norm=config.batch_norm,
        layer_norm_kind=config.layer_norm_kind,
    )


class SupervisedLearner:
    """Network with its optimizer: gradient updates towards the targets of a minibatch.

    ``total_updates`` is what the learning rate's schedule spans. Random draws of an update (dropout, augmentation)
    come from a generator that ``seed`` starts. ``init_torso`` is the origin that `load_torso` returned, or None.
    """

    def __init__(
        self,
        config: FitConfig,
        recipe: Recipe,
        network: Network,
        *,
        device: torch.device,
        precision: Precision,
        memory_format: MemoryFormat = "contiguous",
        seed: int,
        total_updates: int,
        init_torso: dict[str, str] | None = None,
    ) -> None:
        if not isinstance(network.head, (LabelHead, TargetHead)):
            raise ConfigError(f"head must be one that labels or regresses, got {type(network.head).__name__}")
        self.config, self.recipe, self.device, self.total_updates = config, recipe, device, total_updates
        self.init_torso = init_torso
        self.network = network.to(device).set_memory_format(memory_format)
        if config.freeze_torso:
            freeze_torso(self.network)
        self.head: LabelHead | TargetHead = network.head
        optimizer = make_optimizer(
            self.network,
            recipe.optimizer,
            learning_rate=recipe.learning_rate,
            momentum=config.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.step = GradientStep(self.network, optimizer, max_grad_norm=config.max_grad_norm)
        self.peak_learning_rate = recipe.learning_rate
        self.augmentation = config.augmentation
        # A row's standardisation is the same in every epoch; images are small as bytes, and augmented as they are.
        self._scales_once = network.spec.input.layout is None
        self._bfloat16 = precision == "bfloat16"
        self.generator = torch.Generator(device).manual_seed(seed)
        self.num_updates = 0

    @classmethod
    def build(
        cls,
        config: FitConfig,
        recipe: Recipe,
        spec: NetworkSpec,
        *,
        device: torch.device,
        precision: Precision,
        memory_format: MemoryFormat = "contiguous",
        seed: int,
        total_updates: int,
    ) -> SupervisedLearner:
        """Build a learner with first weights drawn from the seed; the torso's may be loaded from another model."""
        weights = torch.Generator().manual_seed(seed)
        network = build_network(spec, weights, recipe.init)
        noise_seed = int(torch.randint(2**62, (), generator=weights))
        torso_origin = None if config.init_torso is None else load_torso(network, config.init_torso)
        return cls(
            config,
            recipe,
            network,
            device=device,
            precision=precision,
            memory_format=memory_format,
            seed=noise_seed,
            total_updates=total_updates,
            init_torso=torso_origin,
        )

    @torch.no_grad()
    def prepare(self, examples: Examples) -> Examples:
        """Move examples to the device and scale them, for `update` to take minibatches of."""
        examples = examples.to(self.device)
        if not self._scales_once:
            return examples
        scaled = torch.empty((len(examples.inputs), self.network.spec.input.size), device=self.device)
        for first in range(0, len(scaled), _EVALUATION_ROWS):
            rows = slice(first, first + _EVALUATION_ROWS)
            scaled[rows] = self.network.scaling(examples.inputs[rows])
        return examples._replace(inputs=scaled)

    def update(self, minibatch: Examples) -> Tensor:
        """Take a gradient step on rows from `prepare`. Returns the mean loss before it, with penalties, detached."""
        config, (inputs, targets, weights) = self.config, minibatch
        layout = self.network.spec.input.layout
        if layout is not None and not self.augmentation.is_identity:
            inputs = augmented(inputs, self.augmentation, layout, self.generator)
        self.step.learning_rate = scheduled_learning_rate(
            self.recipe.schedule, self.peak_learning_rate, self.num_updates, self.total_updates
        )
        self.num_updates += 1
        if not self.network.training:
            self.network.train()

        inputs = inputs if self._scales_once else self.network.scaling(inputs)
        prediction, _ = self.network.answer(inputs, (), self.generator, bfloat16=self._bfloat16)
        losses = self.head.loss(prediction, targets)  # [B]
        loss = losses.mean() if weights is None else (losses * weights).mean()
        if config.l1 or config.l2:
            loss = loss + penalty(self.network, l1=config.l1, l2=config.l2)
        return self.step(loss)

    def score(self, examples: Examples) -> Score:
        """Score the network in evaluation mode and float32, as it is served."""
        return score(self.network, examples)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return weights, optimizer, generator and counter, for a checkpoint."""
        optimizer_state, optimizer_tensors = self.step.state()
        tensors = {
            **with_prefix("network", self.network.state_dict()),
            **with_prefix("optimizer", optimizer_tensors),
            "generator": self.generator.get_state(),
        }
        return {"num_updates": self.num_updates, "optimizer": optimizer_state}, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; CheckpointError when it is of another network."""
        try:
            self.network.load_state_dict(strip_prefix("network", tensors))
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights do not fit this network: {error}") from error
        self.step.restore(state["optimizer"], strip_prefix("optimizer", tensors))
        self.generator.set_state(tensors["generator"])
        self.num_updates = state["num_updates"]


@torch.inference_mode()
def score(network: Network, examples: Examples) -> Score:
    """Score a classifier or a regressor on examples, in evaluation mode and in batches."""
    head = network.head
    if not isinstance(head, (LabelHead, TargetHead)):
        raise ConfigError(f"head must be one that labels or regresses, got {type(head).__name__}")
    network.eval()
    readouts, losses = [], []
    for first in range(0, len(examples.targets), _EVALUATION_ROWS):
        rows = slice(first, first + _EVALUATION_ROWS)
        prediction, _ = network(examples.inputs[rows])
        readouts.append(head.readout(prediction))
        losses.append(head.loss(prediction, examples.targets[rows]))
    weights = torch.ones(len(examples.targets)) if examples.weights is None else examples.weights
    weights = weights.to(examples.targets.device, torch.float64)  # [N]
    total = weights.sum()
    loss = float((torch.cat(losses) * weights).sum() / total)
    readout = torch.cat(readouts)  # [N, K]
    if isinstance(head, LabelHead):
        return Score(loss, accuracy=float(weights[readout.argmax(dim=1) == examples.targets].sum() / total))
    return Score(loss, r2=_r2(readout.double(), examples.targets.double(), weights / total))


def _r2(predicted: Tensor, targets: Tensor, shares: Tensor) -> float:
    """Compute R^2, averaged over targets; of a constant target it is 0 or 1."""
    residual = (shares[:, None] * (targets - predicted).square()).sum(dim=0)  # [K]
    spread = (shares[:, None] * (targets - (shares[:, None] * targets).sum(dim=0)).square()).sum(dim=0)
    explained = torch.where(spread > 0, 1 - residual / spread, (residual == 0).to(spread.dtype))
    return float(explained.mean())
