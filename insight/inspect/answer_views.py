"""Views of a model's predictions: mistakes, calibration, adversarial examples, decision surface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torso.arrays import Array
from torso.insight.inspect.settings import InspectionPicture, InspectionSettings
from torso.insight.inspect.subjects import Subject
from torso.insight.metrics.regression import regression_metrics
from torso.insight.metrics.reliability import plot_reliability, reliability
from torso.insight.pictures import answer_pictures, surfaces
from torso.insight.pictures.input_pictures import channels_last, gray_or_rgb
from torso.insight.units.adversarial import accuracy_by_epsilon, fgsm, fgsm_direction
from torso.insight.units.layers import layers, responses


def view_adversarial(subject: Subject, settings: InspectionSettings, out: Path) -> InspectionPicture:
    """Draw fast gradient sign attacks: accuracy by epsilon, and some inputs before and after."""
    inputs, labels, bounds = subject.examples, subject.labels, subject.bounds
    epsilons = settings.epsilons
    accuracy = dict(zip(epsilons, accuracy_by_epsilon(subject.network, inputs, labels, epsilons, bounds), strict=True))
    shown, attacks = _attacks(subject, accuracy) if subject.is_image else (None, [])
    path = out / "adversarial.png"
    majority_share = float(np.bincount(labels.numpy()).max()) / len(labels)
    title = f"{subject.name}: fast gradient sign attacks on {len(labels):,} test inputs"
    answer_pictures.draw_adversarial(path, title, accuracy, majority_share, attacks, shown)
    figures = {"num_inputs": len(labels), "epsilons": list(accuracy), "accuracy": list(accuracy.values())}
    return InspectionPicture(name="adversarial", path=path, figures=figures)


def _attacks(
    subject: Subject, accuracy: dict[float, float], count: int = 4
) -> tuple[float | None, list[answer_pictures.Attack]]:
    """Choose attacks of one epsilon: the least that misleads the network on a quarter of the inputs it had right."""
    inputs, labels, bounds = subject.examples, subject.labels, subject.bounds
    enough = [epsilon for epsilon in accuracy if epsilon > 0 and accuracy[epsilon] <= 0.75 * accuracy[0.0]]
    epsilon = min(enough, default=max(accuracy))
    before = _probabilities(subject, inputs.float())
    after = _probabilities(subject, fgsm(subject.network, inputs, labels, epsilon, bounds))
    fooled = (before.argmax(axis=1) == labels.numpy()) & (after.argmax(axis=1) != labels.numpy())
    confidence = np.where(fooled, np.minimum(before.max(axis=1), after.max(axis=1)), -1.0)  # both times
    order = [int(row) for row in np.argsort(-confidence, kind="stable") if fooled[row]]
    rows = list({int(labels[row]): row for row in reversed(order)}.values())[-count:][::-1]  # one of each class
    if not rows:
        return None, []
    right, chosen_inputs = labels[rows], inputs[rows]
    moved = fgsm(subject.network, chosen_inputs, right, epsilon, bounds)
    signs = fgsm_direction(subject.network, chosen_inputs, right).numpy()
    perturbations = gray_or_rgb(channels_last(signs, subject.predictor.input))
    originals, adversarial = subject.pictures(chosen_inputs), subject.pictures(moved)
    predicted_before, predicted_after = (
        _captions(subject, _probabilities(subject, x)) for x in (chosen_inputs.float(), moved)
    )
    return epsilon, [
        answer_pictures.Attack(
            original=originals[index],
            perturbation=perturbations[index],
            adversarial=adversarial[index],
            predicted_before=predicted_before[index],
            predicted_after=predicted_after[index],
        )
        for index in range(len(rows))
    ]


@torch.no_grad()
def _probabilities(subject: Subject, inputs: Tensor) -> Array:
    """Compute the probabilities of inputs that need not be of the model's dtype, [N, K]."""
    readout = torch.cat([subject.network.readout(part) for part in torch.split(inputs, 512)])
    return subject.predictor.probabilities(readout.numpy())


def _captions(subject: Subject, probabilities: Array) -> list[str]:
    best = probabilities.argmax(axis=1)
    if not subject.predictor.probabilistic:
        return [subject.names[index] for index in best]
    return [f"{subject.names[index]} · {row[index]:.0%}" for index, row in zip(best, probabilities, strict=True)]


def view_surface(subject: Subject, out: Path) -> InspectionPicture:
    """Draw the decision surface of a classifier of two features, in the plane around its test data."""
    points = subject.examples.float().numpy().reshape(-1, 2)
    plane = surfaces.plane_around(points)
    grid = plane.points.reshape(-1, *subject.predictor.input.shape)
    readout = subject.predictor.run(grid)
    probabilities = subject.predictor.probabilities(readout)
    hidden = [layer for layer in layers(subject.network) if layer.name == "dense1"]
    drives = responses(subject.network, torch.from_numpy(grid), "dense1").numpy() if hidden else None
    predicted = subject.probabilities[: len(points)].argmax(axis=1)
    path = out / "surface.png"
    surfaces.draw_decision_surface(
        path,
        f"{subject.name}: decisions",
        plane,
        probabilities,
        probabilities if subject.predictor.probabilistic else readout,
        surfaces.LabelledPoints(points, subject.labels.numpy(), predicted),
        subject.names,
        subject.feature_names,
        drives,
    )
    return InspectionPicture(name="surface", path=path)


def view_confusion(subject: Subject, out: Path) -> InspectionPicture:
    """Draw the confusion matrix, with the mistakes of the highest confidence."""
    truth = subject.test.labels
    predicted = subject.probabilities.argmax(axis=1)
    confusion = np.zeros((len(subject.names), len(subject.names)), np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    wrong = np.flatnonzero(predicted != truth)
    confidence = (
        subject.probabilities.max(axis=1) if subject.predictor.probabilistic else np.ptp(subject.readout, axis=1)
    )
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:12]
    pictures = (
        subject.pictures(subject.predictor.prepare(subject.test.inputs[worst]))
        if subject.is_image and len(worst)
        else None
    )
    mistakes = [
        answer_pictures.Mistake(
            row=int(row),
            truth=subject.names[truth[row]],
            predicted=subject.names[predicted[row]],
            confidence=float(confidence[row]) if subject.predictor.probabilistic else None,
            picture=None if pictures is None else pictures[place],
        )
        for place, row in enumerate(worst)
    ]
    path = out / "confusion.png"
    summary = f"{len(wrong):,} mistake{'' if len(wrong) == 1 else 's'} in {len(truth):,} test inputs"
    title = f"{subject.name}: {summary} ({1 - len(wrong) / len(truth):.2%} right)"
    answer_pictures.draw_confusion(path, title, confusion, subject.names, mistakes)
    worst_figures = [
        {"row": each.row, "truth": each.truth, "said": each.predicted, "confidence": each.confidence}
        for each in mistakes
    ]
    return InspectionPicture(
        name="confusion", path=path, figures={"confusion": confusion.tolist(), "worst": worst_figures}
    )


def view_reliability(subject: Subject, out: Path) -> InspectionPicture:
    """Draw the reliability diagram; before and after calibration, where there is one."""
    labels = subject.test.labels
    found = {}
    if subject.predictor.card.calibration is not None:
        logits = torch.from_numpy(subject.readout).double()
        found["uncalibrated"] = reliability(logits.softmax(dim=1).numpy(), labels)
    name = "calibrated" if found else subject.name
    found[name] = reliability(subject.probabilities, labels)
    path = plot_reliability(out / "reliability.png", found)
    figures = {key: {"ece": each.ece, "brier": each.brier} for key, each in found.items()}
    return InspectionPicture(name="reliability", path=path, figures=figures)


def view_scatter(subject: Subject, out: Path) -> InspectionPicture:
    """Draw a regressor's predictions against the truth as a scatter plot."""
    metrics = regression_metrics(subject.readout, subject.test.labels, target_names=subject.names)
    path = out / "scatter.png"
    r2 = [target.r2 for target in metrics.targets]
    title = f"{subject.name}: {len(subject.test):,} test examples"
    answer_pictures.draw_scatter(path, title, subject.readout, subject.test.labels, subject.names, r2)
    return InspectionPicture(name="scatter", path=path, figures=metrics.to_json())
