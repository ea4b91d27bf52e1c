"""Base class of `Classifier` and `Regressor`: scikit-learn's conventions around a fit."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from torso.agents.estimators.labels import as_numpy, require_no_dates
from torso.agents.estimators.row_order import Rows
from torso.agents.optim.devices import torch_threads
from torso.agents.supervised.config import ClassifierConfig, FitConfig, RegressorConfig
from torso.agents.supervised.fit_progress import FitProgress
from torso.agents.supervised.fitting import Fitting, as_examples, minibatch_bounds, resolve_fit
from torso.agents.supervised.inputs import as_inputs
from torso.agents.supervised.learner import Examples, SupervisedLearner
from torso.errors import ConfigError, InputError
from torso.nets import (
    Calibration,
    InputSpec,
    ModelCard,
    Network,
    NetworkSpec,
    Predictor,
    TorchBackend,
    load_model,
    make_provenance,
    save_model,
)
from torso.nets.models.card import Label
from torso.nets.modules.devices import resolve_device
from torso.tables import columns_by_name

_PREDICTION_ROWS = 1024  # rows of one forward

C = TypeVar("C", ClassifierConfig, RegressorConfig)


class Estimator(BaseEstimator, Generic[C]):  # type: ignore[misc]
    """Base estimator: fits a network to arrays. Subclasses validate the targets and convert predictions.

    Its parameters are the fields of ``config_class``, which subclasses set.
    """

    config_class: ClassVar[Any]

    network_: Network
    n_features_in_: int
    feature_names_in_: NDArray[Any]  # where X had names of columns
    n_iter_: int
    best_epoch_: int
    loss_curve_: list[float]
    validation_scores_: list[float]
    _card: ModelCard
    _learner: SupervisedLearner | None = None  # of partial_fit
    _init_torso: dict[str, str] | None = None  # origin of the torso
    _is_loaded: bool = False  # from files; `fit` begins anew
    _label_columns: list[str] | None = None  # names of y's columns, where it has some

    # -- fitting ----------------------------------------------------------------------------------------------------

    def _fit(
        self,
        config: C,
        spec: NetworkSpec,
        inputs: NDArray[Any],
        targets: NDArray[Any],
        rows: Rows,
        held_out: NDArray[np.bool_],
    ) -> Examples | None:
        """Fit from fresh weights; returns the validation examples, the rows that ``held_out`` [n] marks, or None."""
        examples = _examples(inputs, targets, rows, spec.input)
        train, validation = (torch.from_numpy(rows.order[mask]) for mask in (~held_out, held_out))
        fitting = Fitting(
            config,
            spec,
            examples,
            examples.take(validation) if len(validation) else None,
            rows=train,
            seed=_seed_of(config),
            resolved=resolve_fit(config, spec),
        )
        with (
            torch_threads(fitting.resolved["num_threads"]),
            FitProgress(fitting.recipe.max_epochs, shows_end=True) if config.verbose else nullcontext() as progress,
        ):
            for event in fitting.run():
                if progress is not None:
                    progress.on_event(event)
        self._learner, self._init_torso = None, fitting.learner.init_torso
        self.n_iter_ = fitting.epoch
        self.loss_curve_ = [epoch.loss for epoch in fitting.epochs]
        self.validation_scores_ = [epoch.validation.quality for epoch in fitting.epochs if epoch.validation is not None]
        self._set_fitted(config, fitting.best_network(), epoch=fitting.best_epoch)
        return fitting.validation

    def _partial_fit(
        self, config: C, spec: NetworkSpec, inputs: NDArray[Any], targets: NDArray[Any], rows: Rows
    ) -> None:
        """Run one epoch over the rows, from the current weights; ``spec`` is for the first call."""
        config = replace(config, schedule="constant")
        if not hasattr(self, "network_"):
            self.n_iter_, self.loss_curve_, self.validation_scores_ = 0, [], []
        resolved = resolve_fit(config, spec)
        learner = self._learner or self._new_learner(config, spec, resolved)
        spec = learner.network.spec
        examples = learner.prepare(_examples(inputs, targets, rows, spec.input))
        bounds = minibatch_bounds(len(rows.order), learner.recipe.batch_size, spec)
        order = torch.randperm(len(rows.order), generator=torch.Generator().manual_seed(learner.num_updates))
        order = torch.from_numpy(rows.order)[order]
        loss = 0.0
        with torch_threads(resolved["num_threads"]):
            for first, stop in pairwise(bounds):
                loss += float(learner.update(examples.take(order[first:stop].to(learner.device)))) * (stop - first)
        self._learner = learner
        self.n_iter_ += 1
        self.loss_curve_.append(loss / len(order))
        self._set_fitted(config, learner.network, epoch=self.n_iter_)

    def _new_learner(self, config: C, spec: NetworkSpec, resolved: Mapping[str, Any]) -> SupervisedLearner:
        """Build a learner for `partial_fit`: of the network that was fitted or loaded, or of a new one."""
        settings: dict[str, Any] = {
            "device": resolve_device(resolved["device"]),
            "precision": resolved["precision"],
            "memory_format": resolved.get("memory_format", "contiguous"),
            "seed": _seed_of(config),
            "total_updates": 1,  # a constant learning rate does not use it
        }
        if hasattr(self, "network_"):
            return SupervisedLearner(config, config.recipe(), self.network_, **settings)
        learner = SupervisedLearner.build(config, config.recipe(), spec, **settings)
        self._init_torso = learner.init_torso
        return learner

    def _set_fitted(self, config: C, network: Network, *, epoch: int, calibration: Calibration | None = None) -> None:
        """Set the fitted network, its model card and the fitted attributes."""
        self.network_, self.best_epoch_, self.n_features_in_ = network, epoch, network.spec.input.size
        self._card = ModelCard(
            kind=network.spec.kind,
            network=network.spec,
            weights_sha256="",
            labels=self._labels(),
            feature_names=self._feature_names(),
            calibration=calibration,
            provenance=make_provenance(
                f"torso.agents.{type(self).__name__}",
                seed=config.random_state,
                label_columns=self._label_columns,
                config=config.to_json(),
                epoch=epoch,
                init_torso=self._init_torso,
            ),
        )

    def _labels(self) -> tuple[Label, ...] | None:
        """Labels of the outputs in model.json."""
        return None

    def _feature_names(self) -> tuple[str, ...] | None:
        """Names of the columns that were fitted to, where X was a frame that has some."""
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else tuple(map(str, names))

    # -- prediction ------------------------------------------------------------------------------------------------

    def _predictor(self) -> Predictor:
        check_is_fitted(self, "network_")
        return Predictor(self._card, TorchBackend(self.network_, next(self.network_.parameters()).device))

    def _readout(self, X: ArrayLike) -> NDArray[np.floating[Any]]:
        """Compute the network's readout of X, [N, K]."""
        check_is_fitted(self, "network_")
        return self._run_network(as_inputs(self._validate_inputs(X, reset=False), self.network_.spec.input))

    def _run_network(self, inputs: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Compute the readout of inputs in the network's specification, in batches.

        Of a table it is computed in float64: in float32 a row's last digits depend on the number of rows in its batch.
        """
        run = self._predictor().run if self.network_.spec.input.layout is not None else self._float64_forward()
        rows = range(0, len(inputs), _PREDICTION_ROWS)
        return np.concatenate([run(inputs[first : first + _PREDICTION_ROWS]) for first in rows])

    def _float64_forward(self) -> Callable[[NDArray[Any]], NDArray[np.float64]]:
        network = copy.deepcopy(self.network_).double().eval()
        device = next(network.parameters()).device

        @torch.inference_mode()
        def run(inputs: NDArray[Any]) -> NDArray[np.float64]:
            prediction, _ = network(torch.tensor(inputs, device=device))
            readout: NDArray[np.float64] = network.head.readout(prediction).cpu().numpy()
            return readout

        return run

    # -- files -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as a model directory (with ``model.onnx``), for `load` and ``torso serve``."""
        check_is_fitted(self, "network_")
        card = self._card
        save_model(
            path,
            self.network_,
            kind=card.kind,
            labels=card.labels,
            feature_names=card.feature_names,
            provenance=card.provenance,
            calibration=card.calibration,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> Self:
        """Load from a model directory or a run directory; it is ready to predict, and ``fit`` starts anew.

        Raises:
            ModelError: no model there, or a damaged one.
            ConfigError: a model of another kind.
        """
        card, network = load_model(path, device)
        kind = cls.__name__.lower()
        if card.kind != kind:
            raise ConfigError(f"{path} must hold a {kind}, got a {card.kind}; use {_LOADERS[card.kind]}.load")
        settings = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in dict(card.provenance.get("config", {})).items()
            if name in cls._parameter_names()
        }
        loaded = cls(**settings)
        loaded._card, loaded.network_ = card, network
        loaded._init_torso = card.provenance.get("init_torso")
        loaded._is_loaded = True
        loaded.n_features_in_ = network.spec.input.size
        if card.feature_names is not None:
            loaded.feature_names_in_ = np.array(card.feature_names, dtype=object)
        loaded.n_iter_ = loaded.best_epoch_ = int(card.provenance.get("epoch") or 0)
        loaded.loss_curve_, loaded.validation_scores_ = [], []
        return loaded

    # -- parameters ------------------------------------------------------------------------------------------------

    @classmethod
    def _parameter_names(cls) -> tuple[str, ...]:
        """Names of the estimator's parameters: the fields of its configuration class."""
        return tuple(field.name for field in fields(cls.config_class))

    def _set_parameters(self, arguments: Mapping[str, Any]) -> None:
        """Set each parameter as an attribute, unchecked and uncopied, as scikit-learn asks of ``__init__``."""
        for name in self._parameter_names():
            setattr(self, name, arguments[name])

    def _config(self) -> C:
        """Build the configuration from the parameters, checked, with the seed that ``random_state`` draws."""
        settings = {name: getattr(self, name) for name in self._parameter_names()}
        if isinstance(self.random_state, Integral):
            settings["random_state"] = int(self.random_state)
        else:
            settings["random_state"] = int(check_random_state(self.random_state).randint(2**31 - 1))
        config: C = self.config_class(**settings)
        return config

    def _validate_inputs(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        """Validate X as an array of finite numbers; rows pass scikit-learn's checks of feature names and counts."""
        X = as_numpy(X)
        require_no_dates("X", X)
        if self._is_loaded and not reset:
            return self._validate_by_name(X)
        self._is_loaded = False
        if getattr(X, "ndim", 2) == 2:
            checked: NDArray[Any] = validate_data(self, X, reset=reset, dtype="numeric")
            return checked
        if reset and hasattr(self, "feature_names_in_"):  # of an earlier fit on a frame
            del self.feature_names_in_
        checked = check_array(X, dtype="numeric", allow_nd=True)
        return checked

    def _validate_by_name(self, X: ArrayLike) -> NDArray[Any]:
        """Validate X for a loaded model: of a frame the model's columns are taken by name; arrays have no names."""
        checked: NDArray[Any] = check_array(
            columns_by_name(X, self._card.feature_names, "X"), dtype="numeric", allow_nd=True, estimator=self
        )
        if checked.ndim == 2 and checked.shape[1] != self.n_features_in_:
            raise InputError("X", expected=f"{self.n_features_in_} features", got=f"{checked.shape[1]} features")
        return checked

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def label_columns_of(y: Any) -> list[str] | None:
    """Return the names of the targets' columns: a frame's columns or a series' name; None where they are no texts."""
    columns = getattr(y, "columns", None)
    names: list[Any] = [getattr(y, "name", None)] if columns is None else list(columns)
    return names if names and all(isinstance(name, str) for name in names) else None


_LOADERS = {"classifier": "Classifier", "regressor": "Regressor", "policy": "DQN"}


def validate_sample_weight(sample_weight: ArrayLike | None, num_rows: int) -> NDArray[np.float64] | None:
    """Validate weights of examples as an array, [num_rows] float64; None stays None.

    Raises:
        InputError: another shape; weights that are negative, not finite or all 0.
    """
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (num_rows,):
        raise InputError("sample_weight", expected=f"of shape ({num_rows},)", got=f"shape {weights.shape}")
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
        raise InputError(
            "sample_weight",
            expected="finite weights of at least 0, not all of them zero",
            got=f"weights from {weights.min()} to {weights.max()}",
        )
    return weights


def _examples(inputs: NDArray[Any], targets: NDArray[Any], rows: Rows, network_input: InputSpec) -> Examples:
    """Convert all examples to tensors; those that are learnt from weigh 1 on average."""
    weights = None
    if rows.weights is not None:
        weights = np.zeros(len(inputs))
        weights[rows.order] = rows.weights / rows.weights.mean()
    return as_examples(as_inputs(inputs, network_input), targets, weights)


def _seed_of(config: FitConfig) -> int:
    assert config.random_state is not None  # noqa: S101 - _config draws one
    return config.random_state
