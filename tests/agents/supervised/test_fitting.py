"""Training loop of a fit: epochs, early stopping, checkpoints at any moment and exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.supervised.config import ClassifierConfig, RegressorConfig
from torso.agents.supervised.fitting import BatchDone, EpochDone, Fitting, as_examples, resolve_fit
from torso.agents.supervised.learner import Examples, classifier_spec, regressor_spec, score
from torso.errors import CheckpointError, ConfigError
from torso.nets import InputSpec

INPUT = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16)


def stripes(num: int, seed: int) -> Examples:
    """Images with horizontal, vertical or no stripes, under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=num)
    images = rng.integers(10, size=(num, 8, 8))
    images[labels == 0, ::2, :] += 4
    images[labels == 1, :, ::2] += 4
    return as_examples(images.astype(np.uint8), labels)


def fitting(*, validation: int = 40, seed: int = 0, **settings: Any) -> Fitting:
    config = ClassifierConfig(**{"net": "cnn", "max_epochs": 4, "batch_size": 16, **settings})
    spec = classifier_spec(config, INPUT, 3)
    held_out = stripes(validation, 1) if validation else None
    resolved = {**resolve_fit(config, spec), "num_threads": 1}
    return Fitting(config, spec, stripes(70, 0), held_out, seed=seed, resolved=resolved)


def weights(fit: Fitting) -> bytes:
    return b"".join(tensor.contiguous().numpy().tobytes() for tensor in fit.learner.network.state_dict().values())


def test_an_epoch_is_its_batches_and_an_end() -> None:
    events = list(fitting(max_epochs=2).run())
    kinds = [(type(event), event.epoch) for event in events]
    assert kinds == [(BatchDone, 1)] * 5 + [(EpochDone, 1)] + [(BatchDone, 2)] * 5 + [(EpochDone, 2)]
    assert [event[1:] for event in events[:5] if isinstance(event, BatchDone)] == [(n, 5) for n in range(1, 6)]


def test_every_example_is_learnt_from_once_an_epoch() -> None:
    fit = fitting(net="mlp", max_epochs=2)
    seen: list[torch.Tensor] = []
    update = fit.learner.update
    fit.learner.update = lambda batch: (seen.append(batch.inputs), update(batch))[1]  # type: ignore[method-assign, func-returns-value]
    list(fit.run())
    first, second = torch.cat(seen[:5]).flatten(1), torch.cat(seen[5:]).flatten(1)
    assert not torch.equal(first, second)
    expected = sorted(row.tobytes() for row in fit.train.inputs.flatten(1).numpy())
    for epoch in (first, second):
        assert sorted(row.tobytes() for row in epoch.numpy()) == expected


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples() -> None:
    """With steps too small to matter it is the loss of the first weights, whatever the batches' sizes."""
    fit = fitting(net="mlp", max_epochs=1, learning_rate=1e-12, batch_size=32)
    before = score(fit.learner.network, fit.train).loss
    *_, done = fit.run()
    assert isinstance(done, EpochDone)
    assert done.loss == pytest.approx(before, rel=1e-5)


def test_the_best_epoch_is_kept_whatever_follows() -> None:
    fit = fitting(validation=100, max_epochs=12, patience=None, learning_rate=0.02)
    done = [event for event in fit.run() if isinstance(event, EpochDone)]
    accuracies = [event.validation.accuracy for event in done if event.validation is not None]
    best = [x >= max(accuracies[: n + 1]) for n, x in enumerate(accuracies) if x is not None]
    assert [event.is_best for event in done] == best
    assert not all(best)
    assert fit.best_epoch == max(event.epoch for event in done if event.is_best)
    assert fit.validation is not None
    assert score(fit.best_network(), fit.validation).accuracy == max(accuracies)


def test_few_examples_choose_by_loss() -> None:
    """Of six examples an epoch of the warm-up may have all right by chance, and later ones five."""
    fit = fitting(net="linear", validation=30, max_epochs=12, patience=None, learning_rate=0.05)
    done = [event for event in fit.run() if isinstance(event, EpochDone)]
    scores = [event.validation for event in done if event.validation is not None]
    losses, accuracies = [score.loss for score in scores], [score.accuracy for score in scores]
    assert fit.best_epoch == 1 + losses.index(min(losses))
    assert accuracies.index(1.0) + 1 < fit.best_epoch
    assert accuracies[fit.best_epoch - 1] < 1


def test_epochs_that_hardly_differ_are_equals() -> None:
    """Five examples count, and all are right soon. That one of the others goes wrong must not end the fit."""
    validation = stripes(100, 1)._replace(weights=torch.where(torch.arange(100) < 5, 1.0, 1e-9))
    config = ClassifierConfig(net="linear", max_epochs=12, patience=3, batch_size=16, learning_rate=0.2)
    spec = classifier_spec(config, INPUT, 3)
    resolved = {**resolve_fit(config, spec), "num_threads": 1}
    fit = Fitting(config, spec, stripes(70, 0), validation, seed=0, resolved=resolved)
    done = [event for event in fit.run() if isinstance(event, EpochDone)]
    accuracies = [event.validation.accuracy for event in done if event.validation and event.validation.accuracy]
    assert 1 - 1e-6 < accuracies[-1] < max(accuracies)
    assert fit.best_epoch == fit.epoch == 12


@pytest.mark.parametrize("validation", [40, 200])
def test_a_regressor_chooses_by_loss(validation: int) -> None:
    config = RegressorConfig(max_epochs=8, patience=None, learning_rate=0.03)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(60 + validation, 3)).astype(np.float32)
    targets = (inputs[:, :2] + rng.normal(size=(len(inputs), 2))).astype(np.float32)
    spec = regressor_spec(config, InputSpec(shape=(3,)), (0.0, 0.0), (1.0, 1.0))
    train, held_out = (as_examples(inputs[some], targets[some]) for some in (slice(60), slice(60, None)))
    fit = Fitting(config, spec, train, held_out, seed=0, resolved={**resolve_fit(config, spec), "num_threads": 1})
    done = [event for event in fit.run() if isinstance(event, EpochDone)]
    losses = [event.validation.loss for event in done if event.validation is not None]
    assert fit.best_epoch == 1 + losses.index(min(losses)) < 8
    assert all(event.validation.accuracy is None for event in done if event.validation is not None)


def test_patience_ends_the_fit() -> None:
    fit = fitting(max_epochs=100, patience=3, learning_rate=0.01)
    list(fit.run())
    assert fit.is_done
    assert fit.epoch == fit.best_epoch + 3 < 100
    assert list(fit.run()) == []


def test_without_validation_the_last_epoch_counts() -> None:
    fit = fitting(validation=0, max_epochs=3, patience=1)
    done = [event for event in fit.run() if isinstance(event, EpochDone)]
    assert [event.validation for event in done] == [None] * 3
    assert fit.best_epoch == 3
    assert all(
        torch.equal(a, b)
        for a, b in zip(fit.best_network().parameters(), fit.learner.network.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"net": "mlp", "dropout": 0.2},
        {"max_shift_px": 1},
        {"precision": "bfloat16", "schedule": "cosine"},
        {"precision": "float32", "weight_decay": 0.0, "schedule": "constant", "layer_norm": True},
        {"batch_norm": True, "label_smoothing": 0.1, "max_rotation_deg": 5, "elastic_px": 0.5},
    ],
)
def test_a_fit_goes_on_to_the_bit_from_any_moment(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = fitting(**settings)
    events = list(whole.run())
    for stop_at in (3, 5, 6, len(events)):  # within an epoch, before its end, after it, after all
        first = fitting(**settings)
        for _, _ in zip(range(stop_at), first.run(), strict=False):
            pass
        state, tensors = first.state()
        CheckpointStore(tmp_path).save(first.epoch, state, tensors)
        checkpoint = CheckpointStore(tmp_path).load()
        assert checkpoint is not None
        second = fitting(**settings)
        second.restore(checkpoint.state, checkpoint.tensors)
        assert list(second.run()) == events[stop_at:]
        assert weights(second) == weights(whole)
        assert second.best_epoch == whole.best_epoch
        assert all(
            torch.equal(a, b)
            for a, b in zip(second.best_network().parameters(), whole.best_network().parameters(), strict=True)
        )


def test_the_seed_decides_everything_and_nothing_else_does() -> None:
    fits = [fitting(seed=0), fitting(seed=0), fitting(seed=1)]
    before = torch.random.get_rng_state()
    for fit in fits:
        torch.rand(3)  # the global generator has no say
        list(fit.run())
    assert weights(fits[0]) == weights(fits[1]) != weights(fits[2])
    torch.random.set_rng_state(before)
    list(fitting().run())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    state, tensors = fitting(hidden=(16,)).state()
    with pytest.raises(CheckpointError, match="do not fit this network"):
        fitting(hidden=(17,)).restore(state, tensors)
    with pytest.raises(CheckpointError, match="lacks 'learner'"):
        fitting().restore({}, {})


def test_a_fit_that_diverges_says_so() -> None:
    with pytest.raises(ConfigError, match="diverged; lower learning_rate"):
        list(fitting(learning_rate=1e30, schedule="constant").run())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"net": "cnm"}, "unknown net 'cnm'"),
        ({"activation": "gelu2"}, "activation must be one of sigmoid, .*, got 'gelu2'"),
        ({"schedule": "linear"}, "schedule must be one of constant, .*, got 'linear'"),
        ({"max_epochs": 0}, "max_epochs must be a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"patience": 0}, "patience"),
        ({"num_threads": 0}, "num_threads"),
        ({"max_shift_px": -1}, "max_shift_px"),
        ({"net": "mlp", "max_shift_px": 1}, "shifts, rotations, scaling and elastic bends are for images"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"dropout": 1.0}, "dropout"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"optimizer": "momentum", "momentum": 0.0}, "momentum must be above 0"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassifierConfig(**settings)


def test_nothing_to_fit() -> None:
    config = ClassifierConfig()
    spec = classifier_spec(config, INPUT, 3)
    with pytest.raises(ConfigError, match="must hold at least 1 example, got 0 examples"):
        Fitting(config, spec, stripes(0, 0), None, seed=0, resolved=resolve_fit(config, spec))
