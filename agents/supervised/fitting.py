"""Training loop of a fit: epochs, the best network by validation, early stopping, and exact resume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.optim.devices import resolve_precision
from torso.agents.optim.memory_formats import resolve_memory_format
from torso.agents.optim.states import strip_prefix, with_prefix
from torso.agents.supervised.config import FitConfig
from torso.agents.supervised.fit_trials import trial_fit, trial_rows
from torso.agents.supervised.learner import Examples, Score, SupervisedLearner
from torso.errors import CheckpointError, ConfigError
from torso.nets import LARGE_WEIGHTS, ConvNetSpec, Network, NetworkSpec
from torso.nets.modules.devices import resolve_device
from torso.nets.modules.layers import MemoryFormat
from torso.nets.modules.network import build_network


class BatchDone(NamedTuple):
    """Event: a gradient step is done, the ``batch``-th of its epoch; both count from 1."""

    epoch: int
    batch: int
    num_batches: int


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """Event: an epoch is done, with the mean loss of its steps and the score on validation data."""

    epoch: int
    loss: float
    validation: Score | None
    is_best: bool
    learning_rate: float

    def figures(self) -> dict[str, Any]:
        """Convert the epoch to its line of progress.jsonl."""
        validation = {} if self.validation is None else self.validation._asdict()
        return {
            "loss": self.loss,
            **{f"validation_{name}": validation.get(name) for name in Score._fields},
            "is_best": self.is_best,
            "learning_rate": self.learning_rate,
        }


FitEvent = BatchDone | EpochDone


_MIN_EXAMPLES_FOR_ACCURACY = 100  # of validation; of fewer, accuracy is too coarse
_QUALITY_TOLERANCE = 1e-6  # epochs that differ by less are equals: a lightly weighted example is no reason to end a fit
_LARGE_PRODUCT = 4 * LARGE_WEIGHTS  # weights of a layer whose product, for one minibatch, gains by bfloat16
_SMALL_BATCH_VALUES = 16_384  # input values of a minibatch; below it, threads wait for each other more than they help


def resolve_fit(config: FitConfig, spec: NetworkSpec) -> dict[str, Any]:
    """Resolve the ``auto`` settings and the recipe on this machine, as plain data.

    ``memory_format`` is among them for convolutions only.
    """
    device, recipe = resolve_device(config.device), config.recipe()
    widths = (spec.input.size, *getattr(spec.torso, "hidden", ()))
    large = any(a * b >= _LARGE_PRODUCT for a, b in pairwise(widths))
    pays = isinstance(spec.torso, ConvNetSpec) or (large and recipe.batch_size != 1)
    precision = resolve_precision(config.precision, device, pays=pays)
    small = recipe.batch_size != "full" and recipe.batch_size * spec.input.size < _SMALL_BATCH_VALUES
    num_threads = config.num_threads or (1 if small else torch.get_num_threads())
    memory_format = resolve_memory_format(
        config.memory_format,
        spec,
        lambda: build_network(spec, torch.Generator().manual_seed(0)),
        partial(trial_fit, config, recipe, device=device, precision=precision),
        rows=trial_rows(recipe),
        usual=_usual_format(spec),
        device=device,
        precision=precision,
        num_threads=num_threads,
    )
    return {
        "device": str(device),
        "precision": precision,
        **({} if memory_format is None else {"memory_format": memory_format}),
        "num_threads": num_threads,
        "recipe": recipe.to_json(),
    }


def _usual_format(spec: NetworkSpec) -> MemoryFormat:
    """Memory format of fits before it was measured."""
    return "channels-last" if isinstance(spec.torso, ConvNetSpec) else "contiguous"


class Fitting:
    """Fit a network to examples; its state at any event can be checkpointed and restored to the bit.

    ``validation`` chooses the best epoch: the highest accuracy or, in regression and where fewer than 100 examples are
    too few to count, the lowest loss; of equals the latest, whose learning rate was lowest. Without it the last epoch
    is taken, and nothing stops the fit early.
    ``rows`` [n] int64 are the examples that an epoch goes through, each as often as it occurs; None means each once.
    ``resolved`` is what `resolve_fit` returned.
    """

    def __init__(
        self,
        config: FitConfig,
        spec: NetworkSpec,
        train: Examples,
        validation: Examples | None,
        *,
        seed: int,
        resolved: Mapping[str, Any],
        rows: Tensor | None = None,
    ) -> None:
        self.num_rows = len(train.targets) if rows is None else len(rows)
        if self.num_rows == 0:
            raise ConfigError("the training data must hold at least 1 example, got 0 examples")
        self.config, self.seed, self.resolved = config, seed, dict(resolved)
        self.recipe = config.recipe(resolved["recipe"])
        self.device = resolve_device(resolved["device"])
        self.validation = None if validation is None else validation.to(self.device)
        self._rows = None if rows is None else rows.to(self.device)
        self._bounds = minibatch_bounds(self.num_rows, self.recipe.batch_size, spec)
        self.learner = SupervisedLearner.build(
            config,
            self.recipe,
            spec,
            device=self.device,
            precision=resolved["precision"],
            memory_format=resolved.get("memory_format", _usual_format(spec)),
            seed=seed,
            total_updates=self.recipe.max_epochs * self.num_batches,
        )
        self.train = self.learner.prepare(train)
        self.epochs: list[EpochDone] = []
        self.best_epoch = 0  # counts from 1; 0 before there is one
        self._best_weights: dict[str, Tensor] = {}
        self._best_network: Network | None = None
        # The CPU's, so that the order is the same on every device.
        self._order_generator = torch.Generator().manual_seed(seed + 1)
        self._permutation: Tensor | None = None  # of the epoch that is under way
        self._batch = 0  # steps made in it
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)  # over its examples

    @property
    def num_batches(self) -> int:
        """Gradient steps in an epoch."""
        return len(self._bounds) - 1

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.epochs)

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or ``patience`` of them in a row brought no improvement."""
        patience = self.config.patience
        epochs_since_best = self.epoch - self.best_epoch
        stops_early = patience is not None and self.validation is not None and epochs_since_best >= patience
        return self.epoch >= self.recipe.max_epochs or stops_early

    def run(self) -> Iterator[FitEvent]:
        """Iterate over the remaining events; callers stop the fit by not iterating on, and may save its ``state``."""
        while not self.is_done:
            self._begin_epoch()
            while self._batch < self.num_batches:
                self._step()
                yield BatchDone(self.epoch + 1, self._batch, self.num_batches)
            yield self._end_epoch()

    def step_at(self, learning_rate: float) -> float:
        """Take one step at this learning rate (of a constant schedule) and return its loss, for range tests."""
        if self._permutation is None or self._batch == self.num_batches:
            self._permutation = None
            self._begin_epoch()
        self.learner.peak_learning_rate = learning_rate
        return float(self._step())

    def best_network(self) -> Network:
        """Return the best network so far, in evaluation mode; before the first epoch ends, the latest.

        It is built once, and takes the best weights of the time at every call.
        """
        if self._best_network is None:
            self._best_network = build_network(self.learner.network.spec, torch.Generator()).to(self.device).eval()
        self._best_network.load_state_dict(self._best_weights or self.learner.network.state_dict())
        return self._best_network

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return everything but the data, as JSON and tensors."""
        learner_state, learner_tensors = self.learner.state()
        epochs = [{"epoch": epoch.epoch, **epoch.figures()} for epoch in self.epochs]
        state = {"learner": learner_state, "epochs": epochs, "best_epoch": self.best_epoch, "batch": self._batch}
        tensors = {
            **with_prefix("learner", learner_tensors),
            **with_prefix("best", self._best_weights),
            "order": self._order_generator.get_state(),
            "loss_sum": self._loss_sum,
        }
        if self._permutation is not None:
            tensors["permutation"] = self._permutation
        return state, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned, of a fit with the same settings and data."""
        try:
            self.learner.restore(state["learner"], strip_prefix("learner", tensors))
            self.epochs = [_epoch_from_json(epoch) for epoch in state["epochs"]]
            self.best_epoch, self._batch = state["best_epoch"], state["batch"]
            self._order_generator.set_state(tensors["order"])
            self._loss_sum = tensors["loss_sum"].to(self.device)
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
        permutation = tensors.get("permutation")
        if permutation is not None and len(permutation) != self.num_rows:
            raise CheckpointError(
                f"the checkpoint must be of {self.num_rows} training examples, got {len(permutation)}"
            )
        self._permutation = None if permutation is None else permutation.to(self.device)
        self._best_weights = {name: t.to(self.device) for name, t in strip_prefix("best", tensors).items()}

    def _begin_epoch(self) -> None:
        if self._permutation is None:
            order = torch.randperm(self.num_rows, generator=self._order_generator).to(self.device)
            self._permutation = order if self._rows is None else self._rows[order]
            self._batch = 0
            self._loss_sum.zero_()

    def _step(self) -> Tensor:
        assert self._permutation is not None  # noqa: S101 - an epoch has begun
        rows = self._permutation[self._bounds[self._batch] : self._bounds[self._batch + 1]]
        loss = self.learner.update(self.train.take(rows))
        self._loss_sum += loss * len(rows)
        self._batch += 1
        return loss

    def _end_epoch(self) -> EpochDone:
        loss = float(self._loss_sum) / self.num_rows
        if not math.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss} after {self.epoch + 1} epochs: the fit diverged; "
                f"lower learning_rate, which is {self.recipe.learning_rate}"
            )
        validation = None if self.validation is None else self.learner.score(self.validation)
        is_best = self._is_best(validation)
        done = EpochDone(
            epoch=self.epoch + 1,
            loss=loss,
            validation=validation,
            is_best=is_best,
            learning_rate=self.learner.step.learning_rate,
        )
        self.epochs.append(done)
        self._permutation = None
        if is_best:
            self.best_epoch = done.epoch
            if validation is not None:
                weights = self.learner.network.state_dict()
                self._best_weights = {name: tensor.clone() for name, tensor in weights.items()}
        return done

    def _is_best(self, validation: Score | None) -> bool:
        before = [self._quality(epoch.validation) for epoch in self.epochs if epoch.validation is not None]
        return validation is None or not before or self._quality(validation) >= max(before) - _QUALITY_TOLERANCE

    def _quality(self, score: Score) -> float:
        """Quality of a score: more is better.

        Of a few examples an early epoch may have all right by chance; a loss is finer.
        """
        few = self.validation is not None and len(self.validation.targets) < _MIN_EXAMPLES_FOR_ACCURACY
        return -score.loss if few and self.learner.network.spec.probabilistic else score.quality


def as_examples(inputs: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any] | None = None) -> Examples:
    """Copy arrays to tensors; labels become int64, regression targets float32 if they are not float64."""
    dtype = torch.float64 if targets.dtype == np.float64 else torch.float32
    dtype = dtype if targets.dtype.kind == "f" else torch.int64
    return Examples(
        torch.tensor(inputs),
        torch.tensor(targets, dtype=dtype),
        None if weights is None else torch.tensor(weights, dtype=torch.float32),
    )


def minibatch_bounds(num_rows: int, batch_size: int | str, spec: NetworkSpec) -> list[int]:
    """Compute the minibatches' bounds in an epoch; a last one too small for batch norm joins the one before."""
    min_size = 2 if getattr(spec.torso, "batch_norm", False) else 1
    size = num_rows if batch_size == "full" else int(batch_size)
    bounds = [*range(0, num_rows, size), num_rows]
    if num_rows - bounds[-2] < min_size:
        if len(bounds) == 2:
            raise ConfigError(f"a minibatch must hold at least {min_size} examples for batch_norm, got {num_rows}")
        del bounds[-2]
    return bounds


def _epoch_from_json(line: Mapping[str, Any]) -> EpochDone:
    score = {name: line[f"validation_{name}"] for name in Score._fields}
    return EpochDone(
        epoch=line["epoch"],
        loss=line["loss"],
        validation=None if score["loss"] is None else Score(**score),
        is_best=line["is_best"],
        learning_rate=line["learning_rate"],
    )
