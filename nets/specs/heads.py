"""Head specifications: what a network puts out, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torso.checks import assign, choice, each, flag, fraction, number, positive, whole
from torso.errors import SpecError
from torso.nets.specs.registry import LATER, register_head
from torso.nets.specs.torsos import MAX_LAYERS
from torso.plain import shown

SigmoidLoss = Literal["cross-entropy", "logistic"]

NOISY_STD = 0.5  # Fortunato et al. 2018, section 3.2


@dataclass(frozen=True, kw_only=True)
class ScalarHeadSpec:
    """Action-value head: one expected return an action (Mnih et al. 2015)."""

    num_actions: int
    """Number of actions."""
    huber_delta: float | None = 1.0
    """TD error beyond which the loss is linear; None means the squared error."""
    dueling: bool = False
    """Add up the returns from two streams, the state's value and each action's advantage (Wang et al. 2016)."""
    hidden: tuple[int, ...] = ()
    """Widths of the head's own layers, with relu: each stream's of a dueling head, or those of a noisy one."""
    noisy: bool = field(default=False, metadata=LATER)
    """Add learnt noise to the weights of the head's layers (Fortunato et al. 2018)."""
    noisy_std: float = field(default=NOISY_STD, metadata=LATER)
    """Deviation of the noise at first, for one input; for p inputs it is divided by the root of p."""

    def __post_init__(self) -> None:
        _check_streams(self)
        if self.huber_delta is not None:
            assign(self, huber_delta=positive("huber_delta (None means the squared error)", self.huber_delta))


@dataclass(frozen=True, kw_only=True)
class CategoricalHeadSpec:
    """Categorical head: each action's return as probabilities of fixed atoms (C51, Bellemare et al. 2017)."""

    num_actions: int
    """Number of actions."""
    num_atoms: int = 51
    """Number of atoms, at least 2."""
    v_min: float = -10.0
    """Return at the first atom; smaller ones count as this."""
    v_max: float = 10.0
    """Return at the last atom; larger ones count as this."""
    dueling: bool = False
    """As in `ScalarHeadSpec`, for each atom (Hessel et al. 2018)."""
    hidden: tuple[int, ...] = ()
    """Widths of the head's own layers, as in `ScalarHeadSpec`."""
    noisy: bool = False
    """As in `ScalarHeadSpec`."""
    noisy_std: float = NOISY_STD
    """As in `ScalarHeadSpec`."""

    def __post_init__(self) -> None:
        _check_streams(self)
        assign(
            self,
            num_atoms=whole("num_atoms", self.num_atoms, least=2),
            v_min=number("v_min", self.v_min),
            v_max=number("v_max", self.v_max),
        )
        if self.v_min >= self.v_max:
            raise SpecError(f"v_min must be below v_max, got {self.v_min} and {self.v_max}")


@dataclass(frozen=True, kw_only=True)
class QuantileHeadSpec:
    """Quantile head: each action's return as quantiles at even fractions (QR-DQN, Dabney et al. 2018)."""

    num_actions: int
    """Number of actions."""
    num_quantiles: int = 200
    """Number of quantiles."""
    huber_delta: float | None = 1.0
    """Error beyond which the loss is linear, kappa of the paper; None means 0: linear everywhere."""
    dueling: bool = False
    """As in `ScalarHeadSpec`, for each quantile."""
    hidden: tuple[int, ...] = ()
    """Widths of the head's own layers, as in `ScalarHeadSpec`."""
    noisy: bool = False
    """As in `ScalarHeadSpec`."""
    noisy_std: float = NOISY_STD
    """As in `ScalarHeadSpec`."""

    def __post_init__(self) -> None:
        _check_streams(self)
        assign(self, num_quantiles=whole("num_quantiles", self.num_quantiles))
        if self.huber_delta is not None:
            assign(self, huber_delta=positive("huber_delta (None means quantile regression)", self.huber_delta))


@dataclass(frozen=True, kw_only=True)
class ImplicitQuantileHeadSpec:
    """Implicit quantile head: each action's return as quantiles at fractions that are drawn (IQN, Dabney et al. 2018).

    Where nothing is drawn, as in evaluation and in a served model, the fractions are ``num_fixed_fractions`` midpoints.
    """

    own_layers: ClassVar[bool] = True
    """Whether the last fully connected layers are the head's, dueling or not: they come after the fractions."""

    num_actions: int
    """Number of actions."""
    num_fractions: int = 64
    """Fractions that are drawn for each state in learning, of the online and of the target network alike."""
    num_fixed_fractions: int = 32
    """Fractions where none are drawn: the midpoints of as many equal parts of [0, 1]."""
    num_cosines: int = 64
    """Cosines of a fraction's embedding."""
    huber_delta: float | None = 1.0
    """As in `QuantileHeadSpec`."""
    dueling: bool = False
    """As in `ScalarHeadSpec`, for each fraction."""
    hidden: tuple[int, ...] = ()
    """Widths of the layers after a state's features were multiplied by a fraction's embedding, with relu."""
    noisy: bool = False
    """As in `ScalarHeadSpec`; the fractions' embedding has no noise."""
    noisy_std: float = NOISY_STD
    """As in `ScalarHeadSpec`."""

    def __post_init__(self) -> None:
        _check_streams(self)
        for name in ("num_fractions", "num_fixed_fractions", "num_cosines"):
            assign(self, **{name: whole(name, getattr(self, name))})
        if self.huber_delta is not None:
            assign(self, huber_delta=positive("huber_delta (None means quantile regression)", self.huber_delta))


def _check_streams(
    spec: ScalarHeadSpec | CategoricalHeadSpec | QuantileHeadSpec | ImplicitQuantileHeadSpec,
) -> None:
    assign(
        spec,
        num_actions=whole("num_actions", spec.num_actions),
        dueling=flag("dueling", spec.dueling),
        hidden=each("hidden", spec.hidden, whole),
        noisy=flag("noisy", spec.noisy),
        noisy_std=positive("noisy_std", spec.noisy_std),
    )
    if len(spec.hidden) > MAX_LAYERS:
        raise SpecError(f"hidden must hold at most {MAX_LAYERS} widths, got {len(spec.hidden)}")
    if spec.hidden and not (spec.dueling or spec.noisy or isinstance(spec, ImplicitQuantileHeadSpec)):
        raise SpecError(
            f"hidden must be empty without dueling, got {shown(spec.hidden)}, which are widths of a dueling (or "
            "noisy) head's own layers; use dueling=True, or give the layers to the torso"
        )


@dataclass(frozen=True, kw_only=True)
class LogitsHeadSpec:
    """Softmax head: one logit a class."""

    num_classes: int
    """Number of classes, at least 2."""
    label_smoothing: float = 0.0
    """Share of each label that training spreads evenly over all classes (Szegedy et al. 2016)."""

    def __post_init__(self) -> None:
        assign(
            self,
            num_classes=whole("num_classes", self.num_classes, least=2),
            label_smoothing=fraction("label_smoothing", self.label_smoothing),
        )


@dataclass(frozen=True, kw_only=True)
class SigmoidHeadSpec:
    """Logistic regression head: one output for two classes; its sigmoid is the probability of class 1."""

    loss: SigmoidLoss = "cross-entropy"
    """``cross-entropy`` is the binary cross-entropy of labels 0 and 1, ``logistic`` the logistic loss of -1 and +1.

    They are the same number, written in two ways.
    """
    label_smoothing: float = 0.0
    """As in `LogitsHeadSpec`, of labels 0 and 1."""

    def __post_init__(self) -> None:
        choice("a sigmoid head's loss", self.loss, ("cross-entropy", "logistic"))
        assign(self, label_smoothing=fraction("label_smoothing", self.label_smoothing))
        if self.label_smoothing and self.loss == "logistic":
            raise SpecError(
                f"label_smoothing must be 0 with the logistic loss, got {self.label_smoothing}: labels of -1 or +1 "
                "cannot be smoothed; use loss='cross-entropy'"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes: two."""
        return 2


@dataclass(frozen=True, kw_only=True)
class OneVsRestHeadSpec:
    """One-vs-rest head: one sigmoid a class against all others; normalised, they are the classes' probabilities."""

    num_classes: int
    """Number of classes, at least 2."""
    label_smoothing: float = 0.0
    """As in `LogitsHeadSpec`."""

    def __post_init__(self) -> None:
        assign(
            self,
            num_classes=whole("num_classes", self.num_classes, least=2),
            label_smoothing=fraction("label_smoothing", self.label_smoothing),
        )


@dataclass(frozen=True, kw_only=True)
class StepHeadSpec:
    """Step-unit head of the perceptron (Rosenblatt 1958): class 1 where its one output is above 0; no probabilities."""

    probabilistic: ClassVar[bool] = False
    """Whether the readout's softmax is a probability."""

    @property
    def num_classes(self) -> int:
        """Number of classes: two."""
        return 2


@dataclass(frozen=True, kw_only=True)
class RegressionHeadSpec:
    """Linear regression head: one number a target.

    The network learns targets of mean 0 and deviation 1, ``(target - mean) / std``, and predicts in the targets' own
    units. Without ``mean`` and ``std`` the targets are learnt as they are.
    """

    num_targets: int
    """Number of targets."""
    mean: tuple[float, ...] | None = None
    """One value a target."""
    std: tuple[float, ...] | None = None
    """One value a target, above 0."""

    def __post_init__(self) -> None:
        assign(self, num_targets=whole("num_targets", self.num_targets))
        if self.mean is None and self.std is None:
            return
        if self.mean is None or self.std is None:
            raise SpecError(f"mean and std must be given together, got {'std' if self.mean is None else 'mean'} alone")
        assign(self, mean=each("mean", self.mean, number), std=each("std", self.std, positive))
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.num_targets:
                raise SpecError(f"{name} must hold {self.num_targets} values, one a target, got {len(values)}")


_LABEL_HEADS = "torso.nets.modules.label_heads"
_DISTRIBUTIONAL_HEADS = "torso.nets.modules.distributional_heads"

register_head("logits", LogitsHeadSpec, f"{_LABEL_HEADS}:LogitsHead")
register_head("sigmoid", SigmoidHeadSpec, f"{_LABEL_HEADS}:SigmoidHead")
register_head("one-vs-rest", OneVsRestHeadSpec, f"{_LABEL_HEADS}:OneVsRestHead")
register_head("step", StepHeadSpec, f"{_LABEL_HEADS}:StepHead")
register_head("regression", RegressionHeadSpec, f"{_LABEL_HEADS}:RegressionHead")
register_head("scalar", ScalarHeadSpec, "torso.nets.modules.value_heads:ScalarHead")
register_head("categorical", CategoricalHeadSpec, f"{_DISTRIBUTIONAL_HEADS}:CategoricalHead")
register_head("quantile", QuantileHeadSpec, f"{_DISTRIBUTIONAL_HEADS}:QuantileHead")
register_head("implicit-quantile", ImplicitQuantileHeadSpec, f"{_DISTRIBUTIONAL_HEADS}:ImplicitQuantileHead")
