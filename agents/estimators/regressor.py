"""Scikit-learn regressor: `Regressor`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_consistent_length

from torso.agents.estimators.estimator import Estimator, label_columns_of, validate_sample_weight
from torso.agents.estimators.labels import as_numpy, require_no_dates
from torso.agents.estimators.row_order import canonical_rows, hold_out
from torso.agents.supervised.config import Optimizer, RegressorConfig, Schedule
from torso.agents.supervised.inputs import input_spec_of, moments
from torso.agents.supervised.learner import regressor_spec, takes_images
from torso.agents.supervised.recipes import BatchSize
from torso.errors import InputError
from torso.nets import NetworkSpec
from torso.nets.models.card import Label
from torso.nets.modules.initialisation import Init
from torso.nets.specs.torsos import Activation, LayerNormKind
from torso.tables import as_floats


class Regressor(RegressorMixin, Estimator[RegressorConfig]):  # type: ignore[misc]
    """Regression by any torso, of one target or several, with scikit-learn's conventions.

    The parameters are the fields of `RegressorConfig`, which documents them. The loss is the sum of squared errors, of
    targets in standard deviations; ``predict`` returns them in their own units. ``X``, weights and the attributes after
    ``fit`` are as in `Classifier`; ``y`` is [N] or [N, K].
    """

    config_class: ClassVar[Any] = RegressorConfig
    _flat_targets: bool | None = None  # whether y is [N]; None, of a loaded model: where there is one target

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
    ) -> None:
        self._set_parameters(locals())

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to examples with numeric targets, from fresh weights. sample_weight: [N], or None.

        Raises:
            ConfigError: settings that cannot work. InputError: examples that cannot be learnt from.
        """
        config = self._config()
        inputs = self._validate_inputs(X, reset=True)
        self._label_columns = label_columns_of(y)
        targets = self._targets(y, first=True)
        check_consistent_length(inputs, targets)
        rows = canonical_rows(inputs, targets, validate_sample_weight(sample_weight, len(inputs)))
        one_class = np.zeros(len(rows.order), dtype=np.int64)
        held_out = hold_out(one_class, config.validation_fraction, config.random_state or 0, rows.groups)
        spec = self._spec(config, inputs, targets, rows.order[~held_out])
        self._fit(config, spec, inputs, targets, rows, held_out)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Run one epoch over these examples, from the current weights, at the learning rate's peak.

        The first call fixes how inputs and targets are scaled.

        Raises:
            ConfigError: settings that cannot work. InputError: examples that cannot be learnt from.
        """
        config, first = self._config(), not hasattr(self, "network_")
        inputs = self._validate_inputs(X, reset=first)
        self._label_columns = label_columns_of(y)
        targets = self._targets(y, first=first)
        check_consistent_length(inputs, targets)
        rows = canonical_rows(inputs, targets, validate_sample_weight(sample_weight, len(inputs)))
        spec = self._spec(config, inputs, targets, rows.order) if first else self.network_.spec
        self._partial_fit(config, spec, inputs, targets, rows)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict the targets of each input, [N] or [N, K] float64, shaped like ``y``."""
        readout = self._readout(X).astype(np.float64)
        flat = readout.shape[1] == 1 if self._flat_targets is None else self._flat_targets
        return readout[:, 0] if flat else readout

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _labels(self) -> tuple[Label, ...] | None:
        names = self._label_columns
        return tuple(names) if names is not None and len(names) == self.network_.spec.num_outputs else None

    def _spec(
        self,
        config: RegressorConfig,
        inputs: NDArray[Any],
        targets: NDArray[Any],
        rows: NDArray[np.int64],
    ) -> NetworkSpec:
        network_input = input_spec_of(
            inputs, convolutional=takes_images(config), layout=config.layout, training_rows=rows
        )
        return regressor_spec(config, network_input, *moments(targets, rows))

    def _targets(self, y: ArrayLike, *, first: bool) -> NDArray[Any]:
        """Validate targets and convert them to [N, K] float32 or float64, from [N] or [N, K]."""
        if y is None:
            raise InputError("y", expected="targets", got="None: fit requires y to be passed, but the target y is None")
        y = as_numpy(y)
        require_no_dates("y", y)
        checked: NDArray[Any] = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if first:
            self._flat_targets = checked.ndim == 1 or (checked.ndim == 2 and checked.shape[1] == 1)
        if self._flat_targets and checked.ndim == 2:
            checked = column_or_1d(checked)
        targets = checked.reshape(len(checked), -1)
        with np.errstate(over="ignore"):
            finite = np.isfinite(targets.astype(np.float32)).all()
        if not finite:
            raise InputError("y", expected="finite float32 numbers", got="larger ones")
        if not first and targets.shape[1] != self.network_.spec.num_outputs:
            raise InputError("y", expected=f"{self.network_.spec.num_outputs} targets", got=f"{targets.shape[1]}")
        return as_floats(targets)
