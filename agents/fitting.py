"""A fit: around the learner, epochs, the best network by validation, early stopping, and exact resume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.agents.classification import ClassifierConfig, ClassifierLearner, Labelled, Score, classifier_spec
from torso.agents.gradient import resolve_device, resolve_precision
from torso.agents.states import strip_prefix, with_prefix
from torso.errors import CheckpointError, ConfigError
from torso.nets import InputSpec, Network
from torso.nets.network import build_network


class BatchDone(NamedTuple):
    """A gradient step was made, the ``batch``-th of its epoch; both count from 1."""

    epoch: int
    batch: int
    num_batches: int


@dataclass(frozen=True, kw_only=True)
class EpochDone:
    """An epoch ended: the mean loss of its steps, and how the network labels what it does not learn from."""

    epoch: int
    loss: float
    validation: Score | None
    is_best: bool
    learning_rate: float

    def figures(self) -> dict[str, Any]:
        """The epoch's line of progress.jsonl."""
        validation = self.validation
        return {
            "loss": self.loss,
            "validation_accuracy": None if validation is None else validation.accuracy,
            "validation_loss": None if validation is None else validation.loss,
            "is_best": self.is_best,
            "learning_rate": self.learning_rate,
        }


FitEvent = BatchDone | EpochDone


_SMALL_BATCH_VALUES = 16_384  # input values of a minibatch; below it, threads wait for each other more than they help


def resolve(config: ClassifierConfig, network_input: InputSpec) -> dict[str, Any]:
    """What the ``auto`` settings choose on this machine, as plain data for config.json."""
    device = resolve_device(config.device)
    precision = resolve_precision(config.precision, device, pays=config.convolutional)
    small = config.batch_size * network_input.size < _SMALL_BATCH_VALUES
    num_threads = config.num_threads or (1 if small else torch.get_num_threads())
    return {"device": str(device), "precision": precision, "num_threads": num_threads}


class Fitting:
    """Fits a network to examples; what it is at any moment goes into a checkpoint and comes back to the bit.

    ``validation`` chooses the best epoch: the highest accuracy, of equals the latest, whose learning rate was lowest.
    Without it the last epoch is taken, and nothing stops the fit early. ``resolved`` is what `resolve` said.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        network_input: InputSpec,
        num_classes: int,
        train: Labelled,
        validation: Labelled | None,
        *,
        seed: int,
        resolved: Mapping[str, Any],
    ) -> None:
        if len(train.labels) == 0:
            raise ConfigError("there is nothing to fit: the training data holds 0 examples")
        self.config, self.seed, self.resolved = config, seed, dict(resolved)
        self.device = resolve_device(resolved["device"])
        self.train = Labelled(*(part.to(self.device) for part in train))
        self.validation = None if validation is None else Labelled(*(part.to(self.device) for part in validation))
        self.num_batches = math.ceil(len(train.labels) / config.batch_size)
        self.learner = ClassifierLearner.build(
            config,
            classifier_spec(config, network_input, num_classes),
            device=self.device,
            precision=resolved["precision"],
            seed=seed,
            total_updates=config.max_epochs * self.num_batches,
        )
        self.epochs: list[EpochDone] = []
        self.best_epoch = 0  # counts from 1; 0 before there is one
        self._best_weights: dict[str, Tensor] = {}
        self._order = torch.Generator().manual_seed(seed + 1)  # the CPU's, so that every device sees the same order
        self._permutation: Tensor | None = None  # of the epoch that is under way
        self._batch = 0  # steps made in it
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)  # over its examples

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return len(self.epochs)

    @property
    def is_done(self) -> bool:
        """Whether all epochs were made, or ``patience`` of them in a row brought nothing better."""
        patience = self.config.patience
        waited = self.epoch - self.best_epoch
        impatient = patience is not None and self.validation is not None and waited >= patience
        return self.epoch >= self.config.max_epochs or impatient

    def run(self) -> Iterator[FitEvent]:
        """Go on to the end; who stops asking has stopped the fit, and may take its ``state`` at any event."""
        while not self.is_done:
            if self._permutation is None:
                order = torch.randperm(len(self.train.labels), generator=self._order)
                self._permutation, self._batch = order.to(self.device), 0
                self._loss_sum.zero_()
            while self._batch < self.num_batches:
                self._step(self._permutation)
                yield BatchDone(self.epoch + 1, self._batch, self.num_batches)
            yield self._end_epoch()

    def best_network(self) -> Network:
        """A copy of the best network so far, in evaluation mode; before the first epoch ends, of the latest."""
        network = build_network(self.learner.network.spec, torch.Generator())
        network.load_state_dict(self._best_weights or self.learner.network.state_dict())
        return network.to(self.device).eval()

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything but the data, as JSON and tensors."""
        learner_state, learner_tensors = self.learner.state()
        epochs = [{"epoch": epoch.epoch, **epoch.figures()} for epoch in self.epochs]
        state = {"learner": learner_state, "epochs": epochs, "best_epoch": self.best_epoch, "batch": self._batch}
        tensors = {
            **with_prefix("learner", learner_tensors),
            **with_prefix("best", self._best_weights),
            "order": self._order.get_state(),
            "loss_sum": self._loss_sum,
        }
        if self._permutation is not None:
            tensors["permutation"] = self._permutation
        return state, tensors

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Become what ``state`` took, of a fit with the same settings and data."""
        try:
            self.learner.restore(state["learner"], strip_prefix("learner", tensors))
            self.epochs = [_epoch_from_json(epoch) for epoch in state["epochs"]]
            self.best_epoch, self._batch = state["best_epoch"], state["batch"]
            self._order.set_state(tensors["order"])
            self._loss_sum = tensors["loss_sum"].to(self.device)
        except KeyError as error:
            raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
        permutation = tensors.get("permutation")
        if permutation is not None and len(permutation) != len(self.train.labels):
            raise CheckpointError(
                f"the checkpoint is of {len(permutation)} training examples, these are {len(self.train.labels)}"
            )
        self._permutation = None if permutation is None else permutation.to(self.device)
        self._best_weights = {name: t.to(self.device) for name, t in strip_prefix("best", tensors).items()}

    def _step(self, permutation: Tensor) -> None:
        first = self._batch * self.config.batch_size
        rows = permutation[first : first + self.config.batch_size]
        loss = self.learner.update(self.train.inputs.index_select(0, rows), self.train.labels.index_select(0, rows))
        self._loss_sum += loss * len(rows)
        self._batch += 1

    def _end_epoch(self) -> EpochDone:
        loss = float(self._loss_sum) / len(self.train.labels)
        if not math.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss} after {self.epoch + 1} epochs: the fit diverged; "
                f"lower learning_rate, which is {self.config.learning_rate}"
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
        before = self.epochs[self.best_epoch - 1].validation if self.best_epoch else None
        if validation is None or before is None:
            return True
        return validation.accuracy >= before.accuracy


def labelled(inputs: NDArray[Any], labels: NDArray[np.int64]) -> Labelled:
    """Arrays as tensors of their own."""
    return Labelled(torch.tensor(inputs), torch.tensor(labels, dtype=torch.int64))


def _epoch_from_json(line: Mapping[str, Any]) -> EpochDone:
    accuracy = line["validation_accuracy"]
    return EpochDone(
        epoch=line["epoch"],
        loss=line["loss"],
        validation=None if accuracy is None else Score(accuracy, line["validation_loss"]),
        is_best=line["is_best"],
        learning_rate=line["learning_rate"],
    )
