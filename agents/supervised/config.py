"""Configuration of a fit: settings of classifiers and regressors, and their checks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from torso.agents.optim.memory_formats import MEMORY_FORMAT_SETTINGS
from torso.agents.optim.optimizers import OPTIMIZERS
from torso.agents.optim.schedules import SCHEDULES
from torso.agents.supervised.augmentation import Augmentation
from torso.agents.supervised.recipes import RECIPES, BatchSize, Recipe, recipe_of
from torso.checks import choice, flag, fraction, optional
from torso.errors import ConfigError
from torso.image_layout import FLAT, LAYOUTS
from torso.nets.modules.initialisation import INITS, Init
from torso.nets.specs.calibration import CALIBRATION_METHODS, CalibrationMethod
from torso.nets.specs.named_heads import head_fields, head_names, require_head
from torso.nets.specs.named_torsos import is_convolutional, registered_nets, unknown_net
from torso.nets.specs.torsos import ACTIVATIONS, Activation, LayerNormKind, require_layer_norm_kind

Optimizer = Literal["sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "radam"]
Schedule = Literal["constant", "step", "cosine", "one-cycle"]
Loss = Literal["auto", "softmax", "binary", "logistic", "one-vs-rest", "perceptron"]

LOSSES = ("auto", "softmax", "binary", "logistic", "one-vs-rest", "perceptron")
DEFAULT_NET = "mlp"
BINARY_LOSSES = ("binary", "logistic", "perceptron")  # of one output, for two classes
ONE_NEURON = ("perceptron", "logistic")  # nets that distinguish two classes by one output
LINEAR = (*ONE_NEURON, "softmax", "linear")  # nets without a hidden layer


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings that classifiers and regressors share. None means the net's own, which ``recipe`` resolves."""

    net: str | None = None
    """Architecture of the network: mlp, linear, lenet, cnn, vgg, nature or nips, or a registered one; for classifiers
    also perceptron, logistic or softmax; None: mlp."""
    head: str | None = None
    """Head of the network, a registered one of your own, which brings its loss; None: torso's."""
    layout: str | None = None
    """Layout of the inputs: hw, chw, hwc, tchw or thwc for images (t: a stack of them), flat for rows; None: by their
    shape and values."""
    hidden: tuple[int, ...] | None = None
    """Widths of the fully connected layers; None: the net's own."""
    activation: Activation | None = None
    """Activation function between layers; None: the net's own."""
    dropout: float | None = None
    """Dropout: share of features dropped in training (Srivastava et al. 2014); None: the net's own."""
    layer_norm: bool = False
    """Layer normalisation after each layer (Ba et al. 2016)."""
    layer_norm_kind: LayerNormKind = "image"
    """Layer normalisation after a convolution: image (over channels and pixels, with a scale and an offset for each
    channel), channels (over the channels of each pixel, as flax's and in Gallici et al. 2024) or elements (as image,
    but a scale and an offset for each element)."""
    batch_norm: bool | None = None
    """Batch normalisation after each layer (Ioffe & Szegedy 2015); None: the net's own."""
    init_torso: str | None = None
    """A model or run directory, a policy's too, whose torso the network begins with; None: random weights."""
    freeze_torso: bool = False
    """Keep the torso of init_torso as it is: only the head learns."""
    init: Init | None = None
    """Initial weights: PyTorch's default, zeros, normal, xavier, he or orthogonal; None: the net's own."""
    optimizer: Optimizer | None = None
    """Optimizer of the weights; None: the net's own, which is adamw for all but the linear ones."""
    learning_rate: float | None = None
    """Learning rate at the peak of its schedule; None: the net's or the optimizer's own."""
    momentum: float = 0.9
    """Momentum of the optimizers momentum and nesterov (Polyak 1964; Sutskever et al. 2013)."""
    schedule: Schedule | None = None
    """Schedule of the learning rate over the fit (one-cycle: Smith & Topin 2018); None: the net's own."""
    batch_size: BatchSize | None = None
    """Examples in each gradient step; full takes all of them, which is gradient descent; None: the net's own."""
    max_epochs: int | None = None
    """Most epochs, which are passes over the training data; None: the net's own."""
    weight_decay: float | None = None
    """Decoupled weight decay, for adamw only (Loshchilov & Hutter 2019); None: the net's own."""
    l1: float = 0.0
    """L1 penalty: this times the sum of the weights' sizes is added to the loss; biases and norms are spared."""
    l2: float = 0.0
    """L2 penalty: this times half the sum of the weights' squares is added to the loss."""
    max_grad_norm: float | None = None
    """Largest norm of the gradient; a longer one is scaled down to it; None: no limit."""
    max_shift_px: float = 0.0
    """Augmentation: shift training images by up to so many pixels."""
    max_rotation_deg: float = 0.0
    """Augmentation: rotate training images by up to so many degrees."""
    max_scale: float = 0.0
    """Augmentation: scale the sides of training images by up to this share."""
    elastic_px: float = 0.0
    """Augmentation: distort training images elastically, by displacements of this standard deviation in pixels (Simard
    et al. 2003)."""
    validation_fraction: float = 0.1
    """Share of the examples given to fit() that is held out to choose the best epoch by; scikit-learn's default."""
    patience: int | None = 20
    """Early stopping: epochs without a better one before the fit ends; None: never."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of forward and backward passes: float32, bfloat16, or auto: bfloat16 where it is faster."""
    memory_format: Literal["auto", "contiguous", "channels-last"] = "auto"
    """Memory format of images in convolutions: contiguous, channels-last, or auto: channels-last for torso's own nets
    unless updates on this machine are a tenth faster without it, as measured at the start of the fit."""
    device: str = "auto"
    """Device to train on: auto, cpu or cuda."""
    num_threads: int | None = None
    """Threads of PyTorch on the CPU; None: 1 for small minibatches, which are slower with more, else PyTorch's own."""
    random_state: int | None = None
    """Seed of everything random; None: drawn."""
    verbose: int = 0
    """1 shows progress on stderr, as torso fit does."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        _check_torso(self)
        _check_names(self)
        _check_combinations(self)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        return asdict(self)

    @property
    def net_name(self) -> str | None:
        """Name of the net: mlp where none is set, None where the torso is another model's."""
        return DEFAULT_NET if self.net is None and self.init_torso is None else self.net

    @property
    def convolutional(self) -> bool:
        """Whether the net takes images; of a torso from another model, that model's input specification decides."""
        return is_convolutional(self.net)

    @property
    def augmentation(self) -> Augmentation:
        """Augmentation of training images."""
        return Augmentation(**{name: getattr(self, name) for name in Augmentation.__dataclass_fields__})

    def recipe(self, recorded: Mapping[str, Any] | None = None) -> Recipe:
        """Resolve the recipe: this configuration's settings over the net's (or over those that a run recorded)."""
        base = recipe_of(self.net or DEFAULT_NET) if recorded is None else Recipe(**recorded)
        return base.with_overrides({name: getattr(self, name) for name in Recipe.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(FitConfig):
    """Settings of a classifier, the same that `Classifier` takes."""

    loss: Loss = "auto"
    """Loss, and the output that goes with it. softmax: one output a class, cross-entropy. binary: one sigmoid output
    for two classes, binary cross-entropy; logistic is the same number written for labels -1 and +1. one-vs-rest: a
    sigmoid a class. perceptron: a step unit. auto: the net's own, which is binary for two classes and softmax for
    more."""
    label_smoothing: float = 0.0
    """Label smoothing: share of each label that is spread over all classes (Szegedy et al. 2016)."""
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None
    """Weights of examples, by label; balanced: every class has the same total weight; None: all weigh 1."""
    calibration: CalibrationMethod | None = None
    """Calibration of the probabilities, on validation data; None: they stay as the network gives them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ConfigError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.calibration is not None and self.calibration not in CALIBRATION_METHODS:
            raise ConfigError(
                f"calibration must be one of {', '.join(CALIBRATION_METHODS)}, or None; got {self.calibration!r}"
            )
        object.__setattr__(self, "label_smoothing", fraction("label_smoothing", self.label_smoothing))
        if self.label_smoothing and self.loss == "logistic":
            raise ConfigError(
                f"label_smoothing must be 0 with loss='logistic', got {self.label_smoothing}: labels of -1 or +1 "
                "cannot be smoothed; use loss='binary'"
            )
        if self.head is not None:
            _check_head(self)
        weight = self.class_weight
        if weight is not None and weight != "balanced" and not isinstance(weight, Mapping):
            raise ConfigError(f"class_weight must be 'balanced', a weight for each label, or None; got {weight!r}")
        if "perceptron" in (self.net, self.loss):
            _check_perceptron(self)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain data; a weight is named by its label's text, as it is looked up."""
        weights = self.class_weight
        if isinstance(weights, Mapping):
            weights = {str(label): weight for label, weight in weights.items()}
        return {**super().to_json(), "class_weight": weights}

    def loss_for(self, num_classes: int) -> Loss:
        """Resolve ``auto`` for a number of classes; ConfigError where the loss cannot distinguish so many."""
        loss = self.loss
        if loss == "auto" and self.net == "perceptron":
            loss = "perceptron"
        elif loss == "auto" and self.net == "logistic":
            loss = "binary" if num_classes == 2 else "one-vs-rest"
        elif loss == "auto":
            loss = "binary" if num_classes == 2 and self.net != "softmax" else "softmax"
        if num_classes != 2 and loss in BINARY_LOSSES:
            raise ConfigError(  # scikit-learn's checks match these words
                f"loss {loss!r}: Only binary classification is supported. There are {num_classes} classes; use softmax "
                "or one-vs-rest, or fewer classes"
            )
        return loss


@dataclass(frozen=True, kw_only=True)
class RegressorConfig(FitConfig):
    """Settings of a regressor, the same that `Regressor` takes; the loss is the sum of squared errors."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.net in (*ONE_NEURON, "softmax"):
            raise ConfigError(f"net {self.net!r} labels; for linear regression use net='linear'")


def as_regression(config: ClassifierConfig) -> RegressorConfig:
    """Convert a command line's settings, which has one set of options for both tasks, to those of a regressor.

    Raises:
        ConfigError: settings that only a classifier has a use for.
    """
    defaults = ClassifierConfig()
    own = [name for name in ClassifierConfig.__dataclass_fields__ if name not in FitConfig.__dataclass_fields__]
    changed = [name for name in own if getattr(config, name) != getattr(defaults, name)]
    if changed:
        names = ", ".join(changed)
        raise ConfigError(f"{names}: the targets are numbers, and only labels have a use for it; leave it out")
    settings = asdict(config)
    return RegressorConfig(**{name: settings[name] for name in FitConfig.__dataclass_fields__})


def _check_torso(config: FitConfig) -> None:
    if config.init_torso is None:
        if config.freeze_torso:
            raise ConfigError("freeze_torso keeps a torso as it was elsewhere: name its model in init_torso")
        return
    if not isinstance(config.init_torso, (str, os.PathLike)) or not os.fspath(config.init_torso):
        raise ConfigError(f"init_torso must be the path of a model or run directory, got {config.init_torso!r}")
    object.__setattr__(config, "init_torso", str(Path(config.init_torso)))  # plain data
    conflicting = [name for name in ("net", "hidden", "activation", "batch_norm") if getattr(config, name) is not None]
    conflicting += ["layer_norm"] if config.layer_norm else []
    conflicting += ["layer_norm_kind"] if config.layer_norm_kind != "image" else []
    if conflicting:
        raise ConfigError(f"init_torso brings the whole torso: leave out {', '.join(conflicting)}")
    if config.freeze_torso and config.dropout is not None:
        raise ConfigError("a frozen torso drops nothing out: leave out dropout")


def _check_names(config: FitConfig) -> None:
    require_layer_norm_kind(config.layer_norm_kind, layer_norm=config.layer_norm)
    choice("memory_format", config.memory_format, MEMORY_FORMAT_SETTINGS)
    if config.layout is not None:
        choice("layout", config.layout, (*LAYOUTS, FLAT))
    if config.head is not None and config.head not in head_names("regressor"):  # the data decide which it must be
        require_head(config.head, "classifier")
    for name, value, known in (
        ("net", config.net, (*RECIPES, *registered_nets())),
        ("activation", config.activation, ACTIVATIONS),
        ("init", config.init, INITS),
        ("optimizer", config.optimizer, OPTIMIZERS),
        ("schedule", config.schedule, SCHEDULES),
    ):
        if value is None or value in known:
            continue
        if name == "net":
            raise unknown_net(value, tuple(RECIPES))
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if config.hidden is not None:
        if not isinstance(config.hidden, Iterable) or isinstance(config.hidden, str):
            raise ConfigError(f"hidden must hold a width for each layer, such as (128,); got {config.hidden!r}")
        object.__setattr__(config, "hidden", tuple(config.hidden))


_FLAGS = ("layer_norm", "freeze_torso")
_COUNTS = ("max_epochs", "batch_size", "patience", "num_threads")
_POSITIVE = ("learning_rate", "max_grad_norm")
_NOT_NEGATIVE = ("weight_decay", "l1", "l2", "max_shift_px", "max_rotation_deg", "max_scale", "elastic_px")
_FRACTIONS = ("validation_fraction", "dropout", "momentum")
_OPTIONAL = (*_POSITIVE, "weight_decay", "dropout")


def _check_numbers(config: FitConfig) -> None:
    for name in _FLAGS:
        object.__setattr__(config, name, flag(name, getattr(config, name)))
    object.__setattr__(config, "batch_norm", optional(flag)("batch_norm", config.batch_norm))
    for name in _COUNTS:
        value = getattr(config, name)
        if value is None or (name == "batch_size" and value == "full"):
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
            or_full = ", or 'full'" if name == "batch_size" else ""
            raise ConfigError(f"{name} must be a whole number of at least 1{or_full}; got {value!r}")
        object.__setattr__(config, name, int(value))  # numpy's are whole numbers too, but no plain data
    for name in (*_POSITIVE, *_NOT_NEGATIVE, *_FRACTIONS):
        value = getattr(config, name)
        if value is None and name in _OPTIONAL:
            continue
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ConfigError(f"{name} must be a number, got {value!r}")
        value = float(value)
        if name in _POSITIVE and not 0 < value < math.inf:
            raise ConfigError(f"{name} must be positive and finite, got {value}")
        if name in _NOT_NEGATIVE and not 0 <= value < math.inf:
            raise ConfigError(f"{name} must be at least 0 and finite, got {value}")
        if name in _FRACTIONS:
            value = fraction(name, value)
        object.__setattr__(config, name, value)


def _check_combinations(config: FitConfig) -> None:
    if not config.augmentation.is_identity and not config.convolutional and config.init_torso is None:
        raise ConfigError(
            f"shifts, rotations, scaling and elastic bends are for images, which net={config.net_name!r} does not "
            "take; use a convolutional net"
        )
    if config.layer_norm and config.batch_norm:
        raise ConfigError("layer_norm and batch_norm exclude each other; choose one")
    if config.weight_decay and config.recipe().optimizer != "adamw":
        raise ConfigError(
            f"weight_decay is adamw's; with optimizer={config.recipe().optimizer!r} use l2={config.weight_decay}"
        )
    if not config.momentum and config.recipe().optimizer in ("momentum", "nesterov"):
        raise ConfigError("momentum must be above 0, got 0.0; without momentum it is optimizer='sgd'")
    layers = ("hidden", "activation", "dropout", "layer_norm", "batch_norm")
    if config.net in LINEAR and (unused := [name for name in layers if getattr(config, name)]):
        raise ConfigError(
            f"net {config.net!r} has no hidden layer for {', '.join(unused)}; leave out, or use net='mlp'"
        )
    if config.batch_norm and config.recipe().batch_size == 1:
        raise ConfigError("batch_norm has nothing to compare in minibatches of 1; use a batch_size of at least 2")


def _check_head(config: ClassifierConfig) -> None:
    if config.loss != "auto":
        raise ConfigError(f"loss must be 'auto' with a head, which brings its own, got {config.loss!r}; leave it out")
    if config.net in ONE_NEURON:
        raise ConfigError(
            f"head must be left out for net {config.net!r}, which is one neuron, got {config.head!r}; use net='linear'"
        )
    if config.label_smoothing and "label_smoothing" not in head_fields(config.head or ""):
        raise ConfigError(
            f"label_smoothing must be left out for head {config.head!r}, whose specification has no such field, got "
            f"{config.label_smoothing}"
        )


def _check_perceptron(config: ClassifierConfig) -> None:
    if config.loss not in ("auto", "perceptron"):
        raise ConfigError(f"net 'perceptron' learns by its own loss, got loss={config.loss!r}; use net='linear'")
    if config.calibration is not None:
        raise ConfigError("a perceptron's step unit gives no probabilities to calibrate; use net='logistic'")
    if config.label_smoothing:
        raise ConfigError("a perceptron's labels are -1 or +1; label_smoothing needs a probability: net='logistic'")
