"""Scikit-learn classifier: `Classifier`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length

from torso.agents.estimators.estimator import Estimator, label_columns_of, validate_sample_weight
from torso.agents.estimators.labels import as_class_labels
from torso.agents.estimators.row_order import Rows, canonical_rows, hold_out
from torso.agents.supervised.calibration import fit_calibration, require_calibratable
from torso.agents.supervised.config import BINARY_LOSSES, ClassifierConfig, Loss, Optimizer, Schedule
from torso.agents.supervised.example_weights import class_weights
from torso.agents.supervised.inputs import input_spec_of
from torso.agents.supervised.learner import classifier_spec, takes_images
from torso.agents.supervised.recipes import BatchSize
from torso.errors import ConfigError, InputError
from torso.nets import NetworkSpec
from torso.nets.models.card import Label
from torso.nets.modules.initialisation import Init
from torso.nets.specs.calibration import CalibrationMethod
from torso.nets.specs.torsos import Activation, LayerNormKind


def _has_probabilities(estimator: Classifier) -> bool:
    return "perceptron" not in (estimator.net, estimator.loss)


class Classifier(ClassifierMixin, Estimator[ClassifierConfig]):  # type: ignore[misc]
    """Classification by any torso, with scikit-learn's conventions.

    The parameters are the fields of `ClassifierConfig`, which documents them; ``hidden`` may also be any sequence,
    ``init_torso`` any path, and ``random_state`` a RandomState, as scikit-learn takes it.

    ``X`` is rows [N, F], or images [N, H, W], [N, C, H, W] or [N, H, W, C], which ``layout`` says where the rule of
    `torso.image_layout` is not right; a convolutional net takes rows of a square number of pixels as images too. ``y``
    holds labels: text, numbers or booleans. What is learnt does not depend on the rows' order; a row of weight 2 equals
    two rows, one of weight 0 none; copies of a row are one row of their summed weight, and are held out together. A
    saved model takes arrays and frames; image files are for those of `fit_run`, whose data sets say how a picture
    becomes an input.

    After ``fit``: ``classes_``; ``network_``, the best epoch's; ``n_iter_``, epochs completed; ``best_epoch_``;
    ``loss_curve_`` and ``validation_scores_`` by epoch; ``n_features_in_``, values of one input.
    """

    config_class: ClassVar[Any] = ClassifierConfig
    classes_: NDArray[Any]

    def __init__(
        self,
        *,
        net: str | None = None,
        head: str | None = None,
        layout: str | None = None,
        hidden: Sequence[int] | None = None,
        activation: Activation | None = None,
        dropout: float | None = None,
        layer_norm: bool = False,
        layer_norm_kind: LayerNormKind = "image",
        batch_norm: bool | None = None,
        init_torso: str | os.PathLike[str] | None = None,
        freeze_torso: bool = False,
        init: Init | None = None,
        optimizer: Optimizer | None = None,
        learning_rate: float | None = None,
        momentum: float = 0.9,
        schedule: Schedule | None = None,
        batch_size: BatchSize | None = None,
        max_epochs: int | None = None,
        weight_decay: float | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        max_grad_norm: float | None = None,
        max_shift_px: float = 0.0,
        max_rotation_deg: float = 0.0,
        max_scale: float = 0.0,
        elastic_px: float = 0.0,
        validation_fraction: float = 0.1,
        patience: int | None = 20,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        memory_format: Literal["auto", "contiguous", "channels-last"] = "auto",
        device: str = "auto",
        num_threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        loss: Loss = "auto",
        label_smoothing: float = 0.0,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        calibration: CalibrationMethod | None = None,
    ) -> None:
        self._set_parameters(locals())

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to labelled examples, from fresh weights. sample_weight: [N], each example's weight, or None.

        Raises:
            ConfigError: settings that cannot work. InputError: examples or labels that cannot be learnt from.
        """
        config = self._config()
        inputs, targets = self._validate_inputs(X, reset=True), as_class_labels(y)
        self._label_columns = label_columns_of(y)
        check_consistent_length(inputs, targets)
        weights = validate_sample_weight(sample_weight, len(inputs))
        classes = np.unique(targets if weights is None else targets[weights > 0])
        if len(classes) < 2:
            raise InputError("y", expected="labels of at least 2 classes", got=f"1 class, {classes[0]!r}")
        rows, labels = self._arrange_rows(config, inputs, targets, weights, classes)
        held_out = hold_out(labels[rows.order], config.validation_fraction, config.random_state or 0, rows.groups)
        if config.calibration is not None and not held_out.any():
            raise ConfigError(
                f"calibration={config.calibration!r} is fitted on held-out examples, of which there are none; "
                f"raise validation_fraction, which is {config.validation_fraction}"
            )
        if config.calibration is not None:
            require_calibratable(config.calibration, labels[rows.order][held_out], len(classes))
        spec = self._spec(config, inputs, rows.order[~held_out], len(classes))
        self.classes_ = classes
        validation = self._fit(config, spec, inputs, labels, rows, held_out)
        if config.calibration is not None and validation is not None:
            readout = self._run_network(validation.inputs.cpu().numpy())
            weights = None if rows.sample_weights is None else rows.sample_weights[held_out]
            calibration = fit_calibration(config.calibration, readout, validation.targets.cpu().numpy(), weights)
            self._set_fitted(config, self.network_, epoch=self.best_epoch_, calibration=calibration)
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Run one epoch over these examples, from the current weights, at the learning rate's peak.

        The first call needs ``classes``, all labels of all calls, and fixes how inputs are scaled. Nothing is
        held out and nothing calibrated.

        Raises:
            ConfigError: settings that cannot work. InputError: examples or labels that cannot be learnt from.
        """
        config, first = self._config(), not hasattr(self, "network_")
        if first and classes is None:
            raise InputError("classes", expected="all labels at the first call of partial_fit", got="None")
        known = np.unique(np.asarray(classes)) if classes is not None else self.classes_
        if not first and not np.array_equal(known, self.classes_):
            raise InputError("classes", expected=f"those of the first call, {self.classes_}", got=str(known))
        inputs, targets = self._validate_inputs(X, reset=first), as_class_labels(y)
        self._label_columns = label_columns_of(y)
        check_consistent_length(inputs, targets)
        weights = validate_sample_weight(sample_weight, len(inputs))
        rows, labels = self._arrange_rows(config, inputs, targets, weights, known)
        spec = self._spec(config, inputs, rows.order, len(known)) if first else self.network_.spec
        self.classes_ = known
        self._partial_fit(config, spec, inputs, labels, rows)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Compute decision values: log-odds [N] of the second class of two, else scores [N, K]."""
        readout = self._readout(X)
        return readout[:, 1] - readout[:, 0] if len(self.classes_) == 2 else readout

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Predict the probability of each class, in the order of ``classes_``: [N, K] float32, rows sum to 1."""
        readout = self._readout(X)
        return self._predictor().probabilities(readout)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the most probable label of each input: [N], of the labels' own dtype."""
        readout = self._readout(X)
        best = self._predictor().probabilities(readout).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> Self:
        """Load a classifier from a model directory or a run directory; it is ready to predict, and ``fit`` starts anew.

        Raises:
            ModelError: no model there, or a damaged one.
            ConfigError: a model of another kind.
        """
        loaded = super().load(path, device)
        labels = loaded._card.labels
        loaded.classes_ = np.asarray(range(loaded.network_.spec.num_outputs) if labels is None else labels)
        if isinstance(loaded.class_weight, Mapping):  # recorded by the labels' text
            by_text = {str(label): label for label in loaded.classes_.tolist()}
            loaded.class_weight = {by_text.get(name, name): weight for name, weight in loaded.class_weight.items()}
        return loaded

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self.net != "perceptron" and self.loss not in BINARY_LOSSES
        return tags

    def _labels(self) -> tuple[Label, ...]:
        return tuple(self.classes_.tolist())

    def _arrange_rows(
        self,
        config: ClassifierConfig,
        inputs: NDArray[Any],
        targets: NDArray[Any],
        weights: NDArray[np.float64] | None,
        classes: NDArray[Any],
    ) -> tuple[Rows, NDArray[np.int64]]:
        """Arrange the rows to learn from, weighted by class too, and index every row's label into ``classes``."""
        labels = np.searchsorted(classes, targets).clip(max=len(classes) - 1)
        unknown = classes[labels] != targets
        if unknown.any() and (weights is None or weights[unknown].any()):
            raise InputError("y", expected=f"labels among {classes}", got=f"{np.unique(targets[unknown])}")
        rows = canonical_rows(inputs, labels, weights)
        by_class = class_weights(config.class_weight, labels[rows.order], classes.tolist(), rows.weights)
        if by_class is None:
            return rows, labels
        if not by_class.any():
            raise ConfigError(
                f"class_weight must give at least one example a weight above 0, got {config.class_weight}"
            )
        return rows.reweighted(by_class), labels

    def _spec(
        self, config: ClassifierConfig, inputs: NDArray[Any], rows: NDArray[np.int64], num_classes: int
    ) -> NetworkSpec:
        network_input = input_spec_of(
            inputs, convolutional=takes_images(config), layout=config.layout, training_rows=rows
        )
        return classifier_spec(config, network_input, num_classes)
