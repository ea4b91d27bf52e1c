"""Head specifications: what a network puts out, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torso.checks import assign, choice, each, flag, fraction, number, positive, whole
from torso.errors import SpecError
from torso.nets.specs.registry import register_head
from torso.nets.specs.torsos import MAX_LAYERS
from torso.plain import shown

SigmoidLoss = Literal["cross-entropy", "logistic"]


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
    """Widths of each dueling stream's own layers, with relu."""

    def __post_init__(self) -> None:
        assign(
            self,
            num_actions=whole("num_actions", self.num_actions),
            dueling=flag("dueling", self.dueling),
            hidden=each("hidden", self.hidden, whole),
        )
        if len(self.hidden) > MAX_LAYERS:
            raise SpecError(f"hidden must hold at most {MAX_LAYERS} widths, got {len(self.hidden)}")
        if self.hidden and not self.dueling:
            raise SpecError(
                f"hidden must be empty without dueling, got {shown(self.hidden)}, which are widths of a dueling head's "
                "streams; use dueling=True, or give the layers to the torso"
            )
        if self.huber_delta is not None:
            assign(self, huber_delta=positive("huber_delta (None means the squared error)", self.huber_delta))


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

register_head("logits", LogitsHeadSpec, f"{_LABEL_HEADS}:LogitsHead")
register_head("sigmoid", SigmoidHeadSpec, f"{_LABEL_HEADS}:SigmoidHead")
register_head("one-vs-rest", OneVsRestHeadSpec, f"{_LABEL_HEADS}:OneVsRestHead")
register_head("step", StepHeadSpec, f"{_LABEL_HEADS}:StepHead")
register_head("regression", RegressionHeadSpec, f"{_LABEL_HEADS}:RegressionHead")
register_head("scalar", ScalarHeadSpec, "torso.nets.modules.value_heads:ScalarHead")
