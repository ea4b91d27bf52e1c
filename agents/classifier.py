"""``Classifier``: a network as scikit-learn's users know an estimator."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from numbers import Integral
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from torso.agents.arrays import as_inputs, input_spec_of
from torso.agents.classification import ClassifierConfig
from torso.agents.fitting import EpochDone, FitEvent, Fitting, labelled, resolve
from torso.agents.gradient import torch_threads
from torso.errors import ConfigError, InputError
from torso.nets import ModelCard, Network, Predictor, TorchBackend, load_model, make_provenance, save_model
from torso.nets.spec import Activation

_PREDICTION_ROWS = 1024  # rows of one forward


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Softmax classification by any torso, with scikit-learn's conventions; the settings are `ClassifierConfig`'s.

    ``X`` is rows [N, F], or images [N, H, W], [N, C, H, W] or [N, H, W, C]; a convolutional net takes rows of a square
    number of pixels as images too. ``y`` holds labels of any kind. A share of the examples, ``validation_fraction``, is
    held out to choose the best epoch by. A saved model takes arrays; image files are for those of `fit_run`, whose data
    sets say how a picture becomes an input.

    After ``fit``: ``classes_``; ``network_``, the best epoch's; ``n_iter_``, epochs made; ``best_epoch_``;
    ``loss_curve_`` and ``validation_scores_`` by epoch; ``n_features_in_``, values of one input.
    """

    classes_: NDArray[Any]
    network_: Network
    n_features_in_: int
    n_iter_: int

    def __init__(
        self,
        *,
        net: str = "mlp",
        hidden: Sequence[int] | None = None,
        activation: Activation | None = None,
        dropout: float | None = None,
        layer_norm: bool = False,
        max_epochs: int = 60,
        batch_size: int = 32,
        learning_rate: float = 2e-3,
        schedule: Literal["constant", "cosine", "one-cycle"] = "one-cycle",
        weight_decay: float = 0.05,
        max_shift_px: int = 0,
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
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.max_shift_px = max_shift_px
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.precision = precision
        self.device = device
        self.num_threads = num_threads
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> Classifier:
        """Fit to labelled examples, from fresh weights.

        Raises:
            ConfigError: settings that cannot work. InputError: examples or labels that cannot be learnt from.
        """
        config = self._config()
        seed = cast(int, config.random_state)
        inputs = self._checked(X, reset=True)
        check_classification_targets(y)
        targets = column_or_1d(y, warn=True)
        check_consistent_length(inputs, targets)
        classes, labels = np.unique(targets, return_inverse=True)
        if len(classes) < 2:
            raise InputError("y", expected="at least 2 classes", came=f"1 class, {classes[0]!r}")
        held_out = hold_out(labels, config.validation_fraction, seed)
        network_input = input_spec_of(inputs[~held_out], convolutional=config.convolutional)
        prepared, resolved = as_inputs(inputs, network_input), resolve(config, network_input)
        fitting = Fitting(
            config,
            network_input,
            len(classes),
            labelled(prepared[~held_out], labels[~held_out]),
            labelled(prepared[held_out], labels[held_out]) if held_out.any() else None,
            seed=seed,
            resolved=resolved,
        )
        events = fitting.run()
        with torch_threads(resolved["num_threads"]):
            for _ in _with_progress(events, fitting) if config.verbose else events:
                pass
        self._card = ModelCard(
            kind="classifier",
            network=fitting.learner.network.spec,
            weights_sha256="",
            labels=tuple(classes.tolist()),
            provenance=make_provenance(
                "torso.agents.Classifier", seed=seed, config=asdict(config), epoch=fitting.best_epoch
            ),
        )
        self.network_ = fitting.best_network()
        self.classes_ = classes
        self.n_features_in_ = network_input.size
        self.n_iter_ = fitting.epoch
        self.best_epoch_ = fitting.best_epoch
        self.loss_curve_ = [epoch.loss for epoch in fitting.epochs]
        self.validation_scores_ = [
            epoch.validation.accuracy for epoch in fitting.epochs if epoch.validation is not None
        ]
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """The probability of each class, in the order of ``classes_``: [N, K] float32, rows sum to 1."""
        check_is_fitted(self)
        inputs = as_inputs(self._checked(X, reset=False), self.network_.spec.input)
        device = next(self.network_.parameters()).device
        predictor = Predictor(self._card, TorchBackend(self.network_, device))
        rows = range(0, len(inputs), _PREDICTION_ROWS)
        readout = [predictor.run(inputs[first : first + _PREDICTION_ROWS]) for first in rows]
        return predictor.probabilities(np.concatenate(readout))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label of each input: [N], of the labels' own dtype."""
        probabilities = self.predict_proba(X)
        labels: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as a model directory (with ``model.onnx``), for `load` and ``torso serve``."""
        check_is_fitted(self)
        card = self._card
        save_model(path, self.network_, kind=card.kind, labels=card.labels, provenance=card.provenance)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "cpu") -> Classifier:
        """Load a classifier from a model directory or a run directory; it predicts at once, and ``fit`` starts anew.

        Raises:
            ModelError: no model there, or a damaged one.
            ConfigError: the model is a policy.
        """
        card, network = load_model(path, device)
        if card.kind != "classifier":
            raise ConfigError(f"{path} holds a {card.kind}, expected a classifier; use DQN.load")
        settings = dict(card.provenance.get("config", {}))
        known = {field.name for field in fields(ClassifierConfig)}
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        classifier = cls(**{name: value for name, value in settings.items() if name in known})
        classifier._card, classifier.network_ = card, network
        labels = card.labels if card.labels is not None else tuple(range(network.spec.head.num_classes))
        classifier.classes_ = np.asarray(labels)
        classifier.n_features_in_ = network.spec.input.size
        return classifier

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _config(self) -> ClassifierConfig:
        """The settings, checked, with the seed that ``random_state`` stands for."""
        settings = {field.name: getattr(self, field.name) for field in fields(ClassifierConfig)}
        if not isinstance(self.random_state, Integral):
            settings["random_state"] = int(check_random_state(self.random_state).randint(2**31 - 1))
        return ClassifierConfig(**settings)

    def _checked(self, X: ArrayLike, *, reset: bool) -> NDArray[Any]:
        """X as an array of finite numbers; rows go through scikit-learn's checks of feature names and counts."""
        if getattr(X, "ndim", 2) == 2 and (reset or len(self.network_.spec.input.shape) == 1):
            checked: NDArray[Any] = validate_data(self, X, reset=reset, dtype="numeric")
        else:
            checked = check_array(X, dtype="numeric", allow_nd=True)
        return checked


def hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark the rows to validate on: this share of each class, rounded down, drawn by the seed. Returns bool [N]."""
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rng.permutation(rows)[: int(fraction * len(rows))]] = True
    return held_out


def _with_progress(events: Iterable[FitEvent], fitting: Fitting) -> Iterator[FitEvent]:
    """Hand the events on, and show them as a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        total = fitting.config.max_epochs * fitting.num_batches
        task = progress.add_task("", total=total, epoch=1)
        for event in events:
            if isinstance(event, EpochDone):
                accuracy = "" if event.validation is None else f", validation {event.validation.accuracy:.2%}"
                progress.update(task, description=f"loss {event.loss:.4f}{accuracy}", epoch=event.epoch)
            else:
                progress.update(task, advance=1)
            yield event
