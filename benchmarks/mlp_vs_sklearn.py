"""torso beside scikit-learn's MLPClassifier, and beside a plain PyTorch DataLoader loop. Both sides in one run.

TORSO_DATA=FOLDER python benchmarks/mlp_vs_sklearn.py [--repeats 5]

1. The same 784-128-10 network, minibatches of 128, 10 epochs of Adam at 1e-3, no penalty, nothing held out: on float32
   arrays, in which scikit-learn computes too, and on float64 arrays, which NumPy makes where nothing else is said.
2. An epoch of the same CNN, minibatches of 128, Adam: as most PyTorch tutorials write it (TensorDataset, DataLoader,
   NCHW, float32), against torso in float32 and in what ``precision="auto"`` chooses.

The sides alternate; medians over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from report import Report
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from torso.agents import Classifier
from torso.envs import load_dataset
from torso.nets import build_network

EPOCHS, BATCH_SIZE, LEARNING_RATE = 10, 128, 1e-3
SETTINGS: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": LEARNING_RATE,
    "schedule": "constant",
    "batch_size": BATCH_SIZE,
    "validation_fraction": 0,
}

Arrays = tuple[np.ndarray, np.ndarray]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Run the work; return its result and its seconds."""
    began_s = time.perf_counter()
    return work(), time.perf_counter() - began_s


def mlp(report: Report, train: Arrays, test: Arrays, repeats: int) -> None:
    """The first part."""
    y, y_test = train[1], test[1]
    tables = {
        dtype: [part[0].reshape(-1, 784).astype(dtype) for part in (train, test)] for dtype in ("float32", "float64")
    }

    def sklearn(dtype: str, seed: int) -> tuple[float, float]:
        X, X_test = tables[dtype]
        model = MLPClassifier((128,), batch_size=BATCH_SIZE, learning_rate_init=LEARNING_RATE, alpha=0.0,
                              max_iter=EPOCHS, tol=0.0, n_iter_no_change=EPOCHS + 1, random_state=seed)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted, seconds = timed(lambda: model.fit(X, y))
        return seconds, fitted.score(X_test, y_test)

    def torso(dtype: str, precision: str, seed: int) -> tuple[float, float]:
        X, X_test = tables[dtype]
        model = Classifier(
            net="mlp", hidden=(128,), max_epochs=EPOCHS, precision=precision, random_state=seed, **SETTINGS
        )
        fitted, seconds = timed(lambda: model.fit(X, y))
        return seconds, fitted.score(X_test, y_test)

    sides: dict[str, Callable[[int], tuple[float, float]]] = {
        "scikit-learn MLPClassifier, float32 arrays (it computes in float32)": lambda seed: sklearn("float32", seed),
        "torso Classifier, float32 arrays, float32": lambda seed: torso("float32", "float32", seed),
        "torso Classifier, float32 arrays, precision auto": lambda seed: torso("float32", "auto", seed),
        "scikit-learn MLPClassifier, float64 arrays (it computes in float64)": lambda seed: sklearn("float64", seed),
        "torso Classifier, float64 arrays, float32": lambda seed: torso("float64", "float32", seed),
        "torso Classifier, float64 arrays, precision auto": lambda seed: torso("float64", "auto", seed),
    }
    runs = [{name: side(seed) for name, side in sides.items()} for seed in range(repeats + 1)][1:]  # the first warms up
    report.data["mlp"] = runs
    title = f"784-128-10, {EPOCHS} epochs of Adam, minibatches of {BATCH_SIZE}"
    for names in (list(sides)[:3], list(sides)[3:]):
        _compare(report, title, {name: [run[name] for run in runs] for name in names})
    products_s = products_alone(torch.from_numpy(tables["float32"][0]))
    report.data["products_s"] = products_s
    report.say(f"the two large products of every step alone, float32, one thread: {products_s:.2f} s; nothing that")
    report.say("computes in float32 can be quicker here")
    report.say()


def products_alone(X: torch.Tensor) -> float:
    """The seconds of forward's and backward's product with the first layer's weights, for as many steps as a fit."""
    inputs, weights, gradient = X[:BATCH_SIZE].clone(), torch.randn(128, 784), torch.randn(BATCH_SIZE, 128)
    torch.set_num_threads(1)

    def steps() -> None:
        for _ in range(EPOCHS * len(X) // BATCH_SIZE):
            inputs @ weights.t()
            gradient.t() @ inputs

    return statistics.median(timed(steps)[1] for _ in range(3))


def cnn(report: Report, train: Arrays, test: Arrays, repeats: int) -> None:
    """The second part."""
    X, y = train
    X_test, y_test = test

    def loader_loop(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        network = build_network(
            Classifier(net="cnn", max_epochs=1, random_state=seed, **SETTINGS).fit(X[:256], y[:256]).network_.spec
        )
        layers = torch.nn.Sequential(network.torso.convs, torch.nn.Flatten(), *_dense(network))
        data = TensorDataset(torch.tensor(X / np.float32(255))[:, None], torch.tensor(y))
        optimizer = torch.optim.Adam(layers.parameters(), lr=LEARNING_RATE)

        def epoch() -> None:
            layers.train()
            for images, labels in DataLoader(data, batch_size=BATCH_SIZE, shuffle=True):
                optimizer.zero_grad()
                functional.cross_entropy(layers(images), labels).backward()
                optimizer.step()

        _, seconds = timed(epoch)
        layers.eval()
        with torch.inference_mode():
            guesses = layers(torch.tensor(X_test / np.float32(255))[:, None]).argmax(dim=1)
        return seconds, float((guesses.numpy() == y_test).mean())

    def torso(precision: str, seed: int) -> tuple[float, float]:
        model = Classifier(net="cnn", max_epochs=1, precision=precision, random_state=seed, **SETTINGS)
        fitted, seconds = timed(lambda: model.fit(X, y))
        return seconds, fitted.score(X_test, y_test)

    runs = [(loader_loop(seed), torso("float32", seed), torso("auto", seed)) for seed in range(repeats + 1)][1:]
    report.data["cnn"] = runs
    names = ("PyTorch DataLoader loop, float32", "torso, float32", "torso, precision auto")
    _compare(
        report,
        f"an epoch of net='cnn', minibatches of {BATCH_SIZE}",
        {name: [run[side] for run in runs] for side, name in enumerate(names)},
    )


def _dense(network: Any) -> list[torch.nn.Module]:
    """The fully connected part with PyTorch's own dropout, as a plain loop would have it."""
    share = network.torso.dropout.probability
    layers: list[torch.nn.Module] = [torch.nn.Dropout(share)]
    for layer in network.torso.dense.layers:
        layers.append(torch.nn.Dropout(share) if type(layer).__name__ == "Dropout" else layer)
    return [*layers, network.head.linear]


def _compare(report: Report, title: str, sides: dict[str, list[tuple[float, float]]]) -> None:
    report.say(title)
    report.say()
    first = statistics.median(seconds for seconds, _ in next(iter(sides.values())))
    rows = []
    for name, runs in sides.items():
        seconds = [run[0] for run in runs]
        median = statistics.median(seconds)
        accuracy = statistics.median(run[1] for run in runs)
        spread = f"{median:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        rows.append([name, spread, f"{first / median:.2f}", f"{accuracy:.2%}"])
    report.table(["side", "seconds", "times the first's speed", "test accuracy"], rows)


def main() -> None:
    """Run both parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    data, report = load_dataset("mnist"), Report("mlp_vs_sklearn")
    X = np.concatenate([data.train.inputs, data.validation.inputs])
    y = np.concatenate([data.train.labels, data.validation.labels])
    scaled = (X / np.float32(255)), (data.test.inputs / np.float32(255))
    mlp(report, (scaled[0], y), (scaled[1], data.test.labels), repeats)
    cnn(report, (X, y), (data.test.inputs, data.test.labels), repeats)
    report.write()


if __name__ == "__main__":
    main()
