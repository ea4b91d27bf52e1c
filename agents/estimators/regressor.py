"""``Regressor``: a network that puts out numbers, as scikit-learn's users know an estimator."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_consistent_length

from torso.agents.estimators.estimator import Estimator, checked_weights
from torso.agents.estimators.row_order import arrange
from torso.agents.supervised.config import Optimizer, RegressorConfig, Schedule
from torso.agents.supervised.inputs import input_spec_of, moments
from torso.agents.supervised.learner import regressor_spec, sees_images
from torso.agents.supervised.recipes import BatchSize
from torso.errors import InputError
from torso.nets import NetworkSpec
from torso.nets.modules.initialisation import Init
from torso.nets.specs.torsos import Activation


class Regressor(RegressorMixin, Estimator[RegressorConfig]):  # type: ignore[misc]
    """Regression by any torso, of one target or several; the settings are `RegressorConfig`'s.

    The loss is the sum of squared errors, of targets in standard deviations; ``predict`` gives them as they were.
    ``X``, the held-out share, weights and what stands there after ``fit`` are as in `Classifier`; ``y`` is [N] or
    [N, K].
    """

    config_class: ClassVar[Any] = RegressorConfig
    _flat_targets: bool | None = None  # whether y is [N]; None, of a loaded model: where there is one target

    def __init__(
        self,
        *,
        net: str | None = None,
        hidden: Sequence[int] | None = None,
        activation: Activation | None = None,
        dropout: float | None = None,
        layer_norm: bool = False,
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
        device: str = "auto",
        num_threads: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.net = net
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.layer_norm = layer_norm
        self.batch_norm = batch_norm
        self.init_torso = init_torso
        self.freeze_torso = freeze_torso
        self.init = init
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.schedule = schedule
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.weight_decay = weight_decay
        self.l1 = l1
        self.l2 = l2
        self.max_grad_norm = max_grad_norm
        self.max_shift_px = max_shift_px
        self.max_rotation_deg = max_rotation_deg
        self.max_scale = max_scale
        self.elastic_px = elastic_px
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.precision = precision
        self.device = device
        self.num_threads = num_threads
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to examples with numbers to predict, from fresh weights. sample_weight: [N], or None.

        Raises:
            ConfigError: settings that cannot work. InputError: examples that cannot be learnt from.
        """
        config = self._config()
        inputs = self._checked(X, reset=True)
        targets = self._targets(y, first=True)
        check_consistent_length(inputs, targets)
        rows = arrange(inputs, targets, checked_weights(sample_weight, len(inputs)))
        held_out = np.zeros(len(rows.order), dtype=bool)
        drawn = np.random.default_rng(config.random_state).permutation(len(rows.order))
        held_out[drawn[: int(config.validation_fraction * len(drawn))]] = True
        spec = self._spec(config, inputs, targets, rows.order[~held_out])
        self._fit(config, spec, inputs, targets, rows, held_out)
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Go once through these examples, from the weights that there are, at the learning rate's peak.

        The first call fixes how inputs and targets are scaled.

        Raises:
            ConfigError: settings that cannot work. InputError: examples that cannot be learnt from.
        """
        config, first = self._config(), not hasattr(self, "network_")
        inputs = self._checked(X, reset=first)
        targets = self._targets(y, first=first)
        check_consistent_length(inputs, targets)
        rows = arrange(inputs, targets, checked_weights(sample_weight, len(inputs)))
        spec = self._spec(config, inputs, targets, rows.order) if first else self.network_.spec
        self._partial_fit(config, spec, inputs, targets, rows)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The targets of each input, [N] or [N, K] float64, as ``y`` was."""
        readout = self._readout(X).astype(np.float64)
        flat = readout.shape[1] == 1 if self._flat_targets is None else self._flat_targets
        return readout[:, 0] if flat else readout

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _spec(
        self,
        config: RegressorConfig,
        inputs: NDArray[Any],
        targets: NDArray[np.float32],
        rows: NDArray[np.int64],
    ) -> NetworkSpec:
        network_input = input_spec_of(inputs, convolutional=sees_images(config), learnt=rows)
        return regressor_spec(config, network_input, *moments(targets, rows))

    def _targets(self, y: ArrayLike, *, first: bool) -> NDArray[np.float32]:
        """[N, K] float32, from [N] or [N, K]."""
        if y is None:
            raise InputError("y", expected="targets", got="None: fit requires y to be passed, but the target y is None")
        checked: NDArray[Any] = check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if first:
            self._flat_targets = checked.ndim == 1 or (checked.ndim == 2 and checked.shape[1] == 1)
        if self._flat_targets and checked.ndim == 2:
            checked = column_or_1d(checked)
        with np.errstate(over="ignore"):
            targets = checked.reshape(len(checked), -1).astype(np.float32)
        if not np.isfinite(targets).all():
            raise InputError("y", expected="finite float32 numbers", got="larger ones")
        if not first and targets.shape[1] != self.network_.spec.num_outputs:
            raise InputError("y", expected=f"{self.network_.spec.num_outputs} targets", got=f"{targets.shape[1]}")
        return targets
