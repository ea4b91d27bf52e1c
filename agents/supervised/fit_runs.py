"""Fit workflow of ``torso fit``: a run directory with logs, models, checkpoints and exact resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from torso.agents.optim.devices import torch_threads
from torso.agents.optim.states import restore_parts, with_prefix
from torso.agents.runs.checkpoints import Checkpoint
from torso.agents.runs.learning_curves import plot_fit
from torso.agents.runs.recorder import Recorder
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.supervised.calibration import fit_calibration, require_calibratable
from torso.agents.supervised.config import ClassifierConfig, FitConfig, RegressorConfig
from torso.agents.supervised.example_weights import class_weights, normalised
from torso.agents.supervised.fitting import EpochDone, FitEvent, Fitting, as_examples, resolve_fit
from torso.agents.supervised.inputs import as_inputs, input_spec_of, moments
from torso.agents.supervised.learner import Examples, classifier_spec, regressor_spec, takes_images
from torso.envs import Dataset, Splits
from torso.errors import ConfigError, ModelNotFoundError, RunError
from torso.insight.metrics.reliability import plot_reliability, reliability
from torso.insight.metrics.scoring import compute_readout, score_on_test
from torso.nets import (
    Calibration,
    InputSpec,
    Network,
    NetworkSpec,
    Predictor,
    TorchBackend,
    export_onnx,
    make_provenance,
    read_source,
    save_model,
)
from torso.nets.modules.network import count_parameters

_BEFORE = {  # what runs had before it was a setting
    "head": None,
    "layout": None,
    "memory_format": "auto",
    "layer_norm_kind": "image",
}


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Result of a fit. ``summary`` is None when it was stopped; ``resume`` continues it."""

    run_directory: RunDirectory
    epochs: int
    best_epoch: int
    summary: dict[str, Any] | None


def fit_run(
    data: Splits,
    config: ClassifierConfig | RegressorConfig,
    *,
    seed: int,
    out: str | os.PathLike[str],
    source: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_event: Callable[[FitEvent], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_period_s: float = 5.0,
) -> FitResult:
    """Fit a classifier or a regressor into a run directory and score the best epoch once on the test data.

    ``source`` holds the arguments of `load_dataset`; it is recorded, so that an evaluation finds the data again. With
    ``resume``, continues the run in ``out`` to the same bits that it would have given without a stop. ``stop`` is
    called after each gradient step; when it returns True, everything is saved first. Checkpoints, which change no bit
    of the result, are ``checkpoint_period_s`` seconds apart.

    Raises:
        ConfigError, InputError: settings or data that cannot work; nothing was written.
        RunError: ``out`` is not a run, or is one and ``resume`` is not set, or has other settings or data.
        StorageError: the directory could not be written; the checkpoint before still loads.
    """
    if config.random_state not in (None, seed):
        raise ConfigError(f"random_state must be None or the seed {seed}, got {config.random_state}; leave it out")
    spec = spec_of(data.train, config)
    with torch.device("meta"):  # without weights: a network that cannot be built is refused before anything is written
        Network(spec)
    if isinstance(config, ClassifierConfig) and config.calibration is not None:
        require_calibratable(config.calibration, data.validation.labels, spec.num_outputs)
    recipe = config.recipe()
    is_new = not (Path(out) / "config.json").is_file()  # a run goes on with what it began with
    settings = {
        "dataset": data.train.name,
        "source": {"name": data.train.name} if source is None else dict(source),
        "data_sha256": data.sha256(),
        **{name: value for name, value in config.to_json().items() if name not in ("random_state", "verbose")},
        "net": config.net_name,
        "init_torso_sha256": None if config.init_torso is None else read_source(config.init_torso).weights_sha256,
    }
    with (
        RunDirectory.prepare(
            out,
            kind="fit",
            settings=settings,
            resolved=resolve_fit(config, spec) if is_new else {},
            seed=seed,
            resume=resume,
            # Under another schedule a longer fit has other learning rates from its first step on.
            extendable=("max_epochs", "patience") if recipe.schedule == "constant" else ("patience",),
            upgrade=lambda recorded: {**_BEFORE, **recorded},
        ) as run,
        torch_threads(run.resolved["num_threads"]),
    ):
        _require_same_reading(run, spec.input)
        fit = _FitRun(run, data, config, spec, seed)
        try:
            summary = fit.execute(on_event, stop, checkpoint_period_s)
        finally:
            fit.recorder.close()
        fitting = fit.fitting
        return FitResult(run_directory=run, epochs=fitting.epoch, best_epoch=fitting.best_epoch, summary=summary)


def _require_same_reading(run: RunDirectory, network_input: InputSpec) -> None:
    """Raise RunError where a run read its inputs otherwise, as an older torso may have inferred it."""
    with suppress(ModelNotFoundError):  # a run that has no checkpoint yet
        begun = read_source(run.path).network.input
        if begun.layout != network_input.layout:
            raise RunError(
                f"inputs must be read as they were when {run.path} was begun, {begun.reading}; got "
                f"{network_input.reading}; begin anew in another directory"
            )


class _FitRun:
    """A `Fitting` with its run directory: recorder, models, summary."""

    def __init__(
        self,
        run: RunDirectory,
        data: Splits,
        config: ClassifierConfig | RegressorConfig,
        spec: NetworkSpec,
        seed: int,
    ) -> None:
        self.run, self.data, self.config, self.seed = run, data, config, seed
        train = examples_of(data.train, spec.input, config)
        validation = examples_of(data.validation, spec.input, config) if len(data.validation) else None
        self.fitting = Fitting(config, spec, train, validation, seed=seed, resolved=run.resolved)
        self.recorder = Recorder(run)
        self.recorder.restore(self._restore)

    def execute(
        self, on_event: Callable[[FitEvent], None], stop: Callable[[], bool], period_s: float
    ) -> dict[str, Any] | None:
        """Fit and write the summary; None when ``stop`` ended it before. A finished run stays as it is."""
        if self.fitting.is_done:
            summary = self.run.read_summary()
            return self._finish() if summary is None else summary
        self.recorder.begin()
        return self._finish() if self._fit(on_event, stop, period_s) else None

    def _fit(self, on_event: Callable[[FitEvent], None], stop: Callable[[], bool], period_s: float) -> bool:
        """Fit until the end (True) or until ``stop`` returns True (False); either way all is saved."""
        last_save_s = time.monotonic()
        for event in self.fitting.run():
            self.run.keep()
            if isinstance(event, EpochDone):
                self.recorder.log(event.epoch, event.figures())
            on_event(event)
            if stop() and not self.fitting.is_done:
                self._save()
                return False
            if time.monotonic() - last_save_s >= period_s:
                self._save()
                last_save_s = time.monotonic()
        self._save()
        return True

    def _finish(self) -> dict[str, Any]:
        """Calibrate, score on the test data, export for serving, plot, and write summary.json; returns its content."""
        fitting, run = self.fitting, self.run
        network = fitting.best_network()  # that of run.best; without validation the latest is the best
        backend = TorchBackend(network, fitting.device)
        card = read_source(run.path)  # a finish that was killed may have left a calibration in it
        uncalibrated = Predictor(replace(card, calibration=None), backend)
        method = self.config.calibration if isinstance(self.config, ClassifierConfig) else None
        if method is not None:
            readout = compute_readout(uncalibrated, self.data.validation.inputs)
            calibration = fit_calibration(method, readout, self.data.validation.labels)
            self._save_model(run.best, network, fitting.best_epoch, calibration)
        export_onnx(run.path, network)
        predictor = Predictor(read_source(run.path), backend)
        if method is not None:
            self._plot_reliability({"before": uncalibrated, method: predictor})
        test_score = score_on_test(predictor, self.data.test)
        best = fitting.epochs[fitting.best_epoch - 1]
        repeated = self.data.repeated_rows()
        summary = {
            "dataset": self.data.train.name,
            "net": self.config.net_name,
            "init_torso": self.config.init_torso,
            "seed": self.seed,
            "inputs": network.spec.input.reading,
            "num_rows": repeated.rows,
            "num_repeated_rows": repeated.repeated,
            "num_parameters": count_parameters(fitting.learner.network),
            "epochs": fitting.epoch,
            "best_epoch": fitting.best_epoch,
            **{name: figure for name, figure in best.figures().items() if name not in ("is_best", "learning_rate")},
            **test_score.figures,
            "test_metrics": None if test_score.metrics is None else test_score.metrics.to_json(),
        }
        plot_fit(run.path)
        run.write_summary(summary)
        return summary

    def _plot_reliability(self, predictors: Mapping[str, Predictor]) -> None:
        """Plot the reliability of the probabilities on the test data, without and with the calibration."""
        test = self.data.test
        if len(test):
            shares = {
                name: known.probabilities(compute_readout(known, test.inputs)) for name, known in predictors.items()
            }
            found = {name: reliability(share, test.labels) for name, share in shares.items()}
            plot_reliability(self.run.reliability, found)

    def _save(self) -> None:
        """Save the models, then the checkpoint; after a kill in between, a resume writes the models again."""
        fitting = self.fitting
        if fitting.best_epoch and fitting.validation is not None:
            self._save_model(self.run.best, fitting.best_network(), fitting.best_epoch)
        self._save_model(self.run.model, fitting.learner.network, fitting.epoch)
        self.recorder.checkpoint(fitting.epoch, {"fitting": fitting})

    def _restore(self, checkpoint: Checkpoint) -> None:
        states, tensors = checkpoint.state.get("parts"), checkpoint.tensors
        if states is None:  # before torso had parts, there was this one alone
            states, tensors = checkpoint.state, with_prefix("fitting", tensors)
        restore_parts({"fitting": self.fitting}, states, tensors)

    def _save_model(
        self,
        directory: os.PathLike[str],
        network: Network,
        epoch: int,
        calibration: Calibration | None = None,
    ) -> None:
        kind, settings, train = network.spec.kind, self.run.settings, self.data.train
        provenance = make_provenance(
            f"torso.agents.{kind.capitalize()}",
            seed=self.seed,
            dataset=settings["dataset"],
            source=settings["source"],
            data_sha256=settings["data_sha256"],
            label_columns=None if train.label_columns is None else list(train.label_columns),
            config=self.config.to_json(),
            epoch=epoch,
            init_torso=self.fitting.learner.init_torso,
        )
        save_model(
            directory,
            network,
            kind=kind,
            labels=train.label_names,
            feature_names=train.feature_names,
            provenance=provenance,
            calibration=calibration,
            onnx=False,
        )


def spec_of(train: Dataset, config: ClassifierConfig | RegressorConfig) -> NetworkSpec:
    """Build the network specification for a data set, whose task must be the configuration's."""
    regression = train.task == "regression"
    if regression != isinstance(config, RegressorConfig):
        required = "RegressorConfig" if regression else "ClassifierConfig"
        raise ConfigError(
            f"config must be a {required}, as {train.name} is for {train.task}, got a {type(config).__name__}"
        )
    network_input = input_spec_of(
        train.inputs, convolutional=takes_images(config), layout=config.layout, image=train.image
    )
    if isinstance(config, RegressorConfig):
        return regressor_spec(config, network_input, *moments(train.labels))
    return classifier_spec(config, network_input, len(train.label_names))


def examples_of(data: Dataset, network_input: InputSpec, config: FitConfig) -> Examples:
    """Convert a data set to tensors, its examples weighted by the configuration's class weights."""
    weights = None
    if isinstance(config, ClassifierConfig):
        weights = normalised(class_weights(config.class_weight, data.labels, data.label_names))
    return as_examples(as_inputs(data.inputs, network_input), data.labels, weights)
