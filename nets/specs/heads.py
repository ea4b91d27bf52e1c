"""What a network's output means, as plain data: the specifications of the heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torso.checks import assign, choice, each, flag, fraction, number, positive, whole
from torso.errors import SpecError
from torso.nets.specs.registry import register_head
from torso.plain import shown

SigmoidLoss = Literal["cross-entropy", "logistic"]


@dataclass(frozen=True, kw_only=True)
class ScalarHeadSpec:
    """One expected return an action (Mnih et al. 2015).

    ``huber_delta`` is the TD error beyond which the loss is linear; None means the squared error. ``dueling`` makes
    the returns of two streams, the state's value and each action's advantage (Wang et al. 2016); ``hidden`` are the
    widths of each stream's own layers, with relu.
    """

    num_actions: int
    huber_delta: float | None = 1.0
    dueling: bool = False
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assign(
            self,
            num_actions=whole("num_actions", self.num_actions),
            dueling=flag("dueling", self.dueling),
            hidden=each("hidden", self.hidden, whole),
        )
        if self.hidden and not self.dueling:
            raise SpecError(
                f"hidden are the widths of a dueling head's streams, got {shown(self.hidden)} without dueling; use "
                "dueling=True, or give the layers to the torso"
            )
        if self.huber_delta is not None:
            assign(self, huber_delta=positive("huber_delta (None means the squared error)", self.huber_delta))


@dataclass(frozen=True, kw_only=True)
class LogitsHeadSpec:
    """One logit a class; softmax makes them probabilities.

    ``label_smoothing`` is the share of each label that training spreads evenly over all classes (Szegedy et al. 2016).
    """

    num_classes: int
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        assign(
            self,
            num_classes=whole("num_classes", self.num_classes, least=2),
            label_smoothing=fraction("label_smoothing", self.label_smoothing),
        )


@dataclass(frozen=True, kw_only=True)
class SigmoidHeadSpec:
    """One output for two classes; its sigmoid is the probability of class 1: logistic regression's.

    ``cross-entropy`` is the binary cross-entropy of labels 0 and 1, ``logistic`` the logistic loss of labels -1 and +1:
    the same number, written in two ways. ``label_smoothing`` as in `LogitsHeadSpec`, of labels 0 and 1.
    """

    loss: SigmoidLoss = "cross-entropy"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        choice("a sigmoid head's loss", self.loss, ("cross-entropy", "logistic"))
        assign(self, label_smoothing=fraction("label_smoothing", self.label_smoothing))
        if self.label_smoothing and self.loss == "logistic":
            raise SpecError(
                "the logistic loss takes labels of -1 or +1, which cannot be smoothed; use loss='cross-entropy'"
            )

    @property
    def num_classes(self) -> int:
        """Two."""
        return 2


@dataclass(frozen=True, kw_only=True)
class OneVsRestHeadSpec:
    """One sigmoid a class, each telling its class from all others; normalised, they are the classes' probabilities.

    ``label_smoothing`` as in `LogitsHeadSpec`.
    """

    num_classes: int
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        assign(
            self,
            num_classes=whole("num_classes", self.num_classes, least=2),
            label_smoothing=fraction("label_smoothing", self.label_smoothing),
        )


@dataclass(frozen=True, kw_only=True)
class StepHeadSpec:
    """The perceptron's step unit (Rosenblatt 1958): class 1 where its one output is above 0, without probabilities."""

    probabilistic: ClassVar[bool] = False  # whether what the head says can be read as probabilities

    @property
    def num_classes(self) -> int:
        """Two."""
        return 2


@dataclass(frozen=True, kw_only=True)
class RegressionHeadSpec:
    """One number a target.

    The network learns targets of mean 0 and deviation 1, ``(target - mean) / std``, and answers in the targets' own
    units; ``mean`` and ``std`` hold one value a target. Without them the targets are learnt as they are.
    """

    num_targets: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        assign(self, num_targets=whole("num_targets", self.num_targets))
        if self.mean is None and self.std is None:
            return
        if self.mean is None or self.std is None:
            raise SpecError("mean and std come together, or not at all")
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
