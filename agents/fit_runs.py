"""The road of ``torso fit``: a fit in a run directory, with logs, models, checkpoints and exact resume."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from torso.agents.arrays import as_inputs, input_spec_of
from torso.agents.checkpoints import CheckpointStore
from torso.agents.classification import ClassifierConfig, Labelled, classifier_spec
from torso.agents.fitting import EpochDone, FitEvent, Fitting, labelled, resolve
from torso.agents.gradient import torch_threads
from torso.agents.plots import plot_fit
from torso.agents.rundir import RunDirectory
from torso.agents.trackers import Tracker
from torso.envs import Dataset, Splits
from torso.errors import ConfigError
from torso.nets import ImageSpec, InputSpec, Network, Predictor, export_onnx, make_provenance, save_model

_SCORE_ROWS = 1024  # test examples in one forward


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a fit ended. ``summary`` is None when it was stopped; ``--resume`` goes on with it then."""

    run_directory: RunDirectory
    epochs: int
    best_epoch: int
    summary: dict[str, Any] | None


def fit_run(
    data: Splits,
    config: ClassifierConfig,
    *,
    seed: int,
    out: str | os.PathLike[str],
    resume: bool = False,
    on_event: Callable[[FitEvent], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_period_s: float = 5.0,
) -> FitResult:
    """Fit a classifier into a run directory and score the best epoch once on the test data.

    With ``resume``, goes on with the run in ``out`` to the same bits that it would have given without a stop. ``stop``
    is asked after each gradient step; when it says so, everything is saved first. Checkpoints, which change no bit of
    the result, are ``checkpoint_period_s`` seconds apart.

    Raises:
        ConfigError, InputError: settings or data that cannot work; nothing was written.
        RunError: ``out`` is not a run, or is one and ``resume`` is not set, or has other settings or data.
        StorageError: the directory could not be written; the checkpoint before still loads.
    """
    if config.random_state not in (None, seed):
        raise ConfigError(f"random_state {config.random_state} contradicts the seed {seed}; leave it out")
    network_input = _input_of(data.train, config)
    with torch.device("meta"):  # without weights: a network that cannot be built is refused before anything is written
        Network(classifier_spec(config, network_input, len(data.train.label_names)))
    settings = {
        "dataset": data.train.name,
        "data_sha256": _fingerprint(data),
        **{name: value for name, value in asdict(config).items() if name not in ("random_state", "verbose")},
    }
    with (
        RunDirectory.prepare(
            out,
            kind="fit",
            settings=settings,
            resolved=resolve(config, network_input),
            seed=seed,
            resume=resume,
            # Under another schedule a longer fit has other learning rates from its first step on.
            extendable=("max_epochs", "patience") if config.schedule == "constant" else ("patience",),
        ) as run,
        torch_threads(run.resolved["num_threads"]),
    ):
        fit = _FitRun(run, data, config, network_input, seed)
        try:
            summary = fit.to_the_end(on_event, stop, checkpoint_period_s)
        finally:
            fit.tracker.close()
        fitting = fit.fitting
        return FitResult(run_directory=run, epochs=fitting.epoch, best_epoch=fitting.best_epoch, summary=summary)


class _FitRun:
    """A fitting and the files around it."""

    def __init__(
        self, run: RunDirectory, data: Splits, config: ClassifierConfig, network_input: InputSpec, seed: int
    ) -> None:
        self.run, self.data, self.config, self.seed = run, data, config, seed
        names = data.train.label_names
        validation = _tensors(data.validation, network_input) if len(data.validation) else None
        train = _tensors(data.train, network_input)
        self.fitting = Fitting(config, network_input, len(names), train, validation, seed=seed, resolved=run.resolved)
        self.store = CheckpointStore(run.checkpoint)
        checkpoint = self.store.load()
        if checkpoint is not None:
            self.fitting.restore(checkpoint.state["fitting"], checkpoint.tensors)
        self.tracker = Tracker(run.path, None if checkpoint is None else checkpoint.state["tracker"])

    def to_the_end(
        self, on_event: Callable[[FitEvent], None], stop: Callable[[], bool], period_s: float
    ) -> dict[str, Any] | None:
        """Fit, and sum up; None when ``stop`` said so before. A run that has ended stays as it is."""
        if self.fitting.is_done:
            summary = self.run.read_summary()
            return self._finish() if summary is None else summary
        self.run.drop_summary()  # of an end that was not the last
        return self._finish() if self._fit(on_event, stop, period_s) else None

    def _fit(self, on_event: Callable[[FitEvent], None], stop: Callable[[], bool], period_s: float) -> bool:
        """Fit until the end (True) or until ``stop`` says so (False); either way all is saved."""
        saved_s = time.monotonic()
        for event in self.fitting.run():
            if isinstance(event, EpochDone):
                self.tracker.log(event.epoch, event.figures())
            on_event(event)
            if stop() and not self.fitting.is_done:
                self._save()
                return False
            if time.monotonic() - saved_s >= period_s:
                self._save()
                saved_s = time.monotonic()
        self._save()
        return True

    def _finish(self) -> dict[str, Any]:
        """Score on the test data, export for serving, draw, and write summary.json. Its content."""
        fitting, run = self.fitting, self.run
        export_onnx(run.path)
        predictor = Predictor.load(run.path, device=fitting.device)
        best = fitting.epochs[fitting.best_epoch - 1]
        summary = {
            "dataset": self.data.train.name,
            "net": self.config.net,
            "seed": self.seed,
            "num_parameters": sum(parameter.numel() for parameter in fitting.learner.network.parameters()),
            "epochs": fitting.epoch,
            "best_epoch": fitting.best_epoch,
            "loss": best.loss,
            "validation_accuracy": None if best.validation is None else best.validation.accuracy,
            "validation_loss": None if best.validation is None else best.validation.loss,
            **score_on_test(predictor, self.data.test),
        }
        plot_fit(run.path)
        run.write_summary(summary)
        return summary

    def _save(self) -> None:
        """Models, then the checkpoint that knows them; a kill in between leaves models that a resume writes again."""
        fitting = self.fitting
        if fitting.best_epoch and fitting.validation is not None:
            self._save_model(self.run.best, fitting.best_network(), fitting.best_epoch)
        self._save_model(self.run.model, fitting.learner.network, fitting.epoch)
        state, tensors = fitting.state()
        self.store.save(fitting.epoch, {"fitting": state, "tracker": self.tracker.position()}, tensors)

    def _save_model(self, directory: os.PathLike[str], network: Network, epoch: int) -> None:
        provenance = make_provenance(
            "torso.agents.Classifier",
            seed=self.seed,
            dataset=self.data.train.name,
            config=asdict(self.config),
            epoch=epoch,
        )
        labels = self.data.train.label_names
        save_model(directory, network, kind="classifier", labels=labels, provenance=provenance, onnx=False)


def _input_of(train: Dataset, config: ClassifierConfig) -> InputSpec:
    image = None if train.image is None else ImageSpec(**vars(train.image))
    return input_spec_of(train.inputs, convolutional=config.convolutional, image=image)


def _tensors(examples: Dataset, network_input: InputSpec) -> Labelled:
    return labelled(as_inputs(examples.inputs, network_input), examples.labels)


def score_on_test(predictor: Predictor, test: Dataset) -> Mapping[str, Any]:
    """What a model, as it is served, makes of test data: num_test, test_errors, test_accuracy, test_loss (nats).

    Raises ConfigError when the model knows other labels than the data.
    """
    if tuple(map(str, predictor.labels)) != tuple(map(str, test.label_names)):
        raise ConfigError(f"the model knows the labels {predictor.labels}, {test.name} has {test.label_names}")
    if len(test) == 0:
        return {"num_test": 0, "test_errors": None, "test_accuracy": None, "test_loss": None}
    errors, loss = 0, 0.0
    for first in range(0, len(test), _SCORE_ROWS):
        labels = test.labels[first : first + _SCORE_ROWS]
        readout = predictor.run(predictor.prepare(test.inputs[first : first + _SCORE_ROWS]))
        errors += int((readout.argmax(axis=1) != labels).sum())
        logits = readout.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        loss += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
    return {
        "num_test": len(test),
        "test_errors": errors,
        "test_accuracy": 1 - errors / len(test),
        "test_loss": loss / len(test),
    }


def _fingerprint(data: Splits) -> str:
    """The SHA-256 of all inputs and labels: a resume on other data is refused."""
    digest = hashlib.sha256()
    for part in data:
        digest.update(f"{part.inputs.dtype} {part.inputs.shape}".encode())
        digest.update(np.ascontiguousarray(part.inputs).data)
        digest.update(np.ascontiguousarray(part.labels).data)
    return digest.hexdigest()
