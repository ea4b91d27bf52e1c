"""Transfer benchmark of a torso from another task: a digit classifier's in an agent, and that agent's in a classifier.

python benchmarks/shared_torso.py [--seeds 8]

1. ``torso/Digits-v0`` shows scans of the data set digits and rewards naming them. The same DQN learns there from fresh
   weights, from the torso of a classifier of these scans, and from that of a classifier which saw 0 to 4 alone; with
   these torsos frozen; and with a frozen torso of random weights, which says what a torso is worth that learnt nothing.
   Measured at several steps: the greedy policy's return of an episode of 20 pictures, expected over the data set's 353
   test scans, which no side learns from.
2. The first of these agents, which was never told a label but 10,000 times whether it was right, gives its torso to
   classifiers of few labelled scans, the same number of each digit.

Every side has the same settings, and the same seed gives it the same scans. Means and standard deviations over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from report import Report

from torso.agents import Classifier, DQNConfig, Training, World
from torso.agents.runs.callbacks import Callback
from torso.agents.runs.events import Tick
from torso.envs import load_dataset
from torso.nets import Network, build_network, save_model

STEPS = (500, 1_000, 2_000, 5_000, 10_000)
LABELS = (10, 50, 200)
PICTURES = 20  # of an episode
NET: dict[str, Any] = {"net": "mlp", "hidden": (128, 128)}
AGENT: dict[str, Any] = {
    "gamma": 0.0,  # what is said changes nothing of what is shown next
    "learning_rate": 1e-3,
    "batch_size": 64,
    "min_replay_size": 100,
    "learn_period": 2,
    "epsilon_decay_steps": 2_000,
    "evaluation_period": 10_000,
    "evaluation_episodes": 1,
    "device": "cpu",
    "precision": "float32",
}
DATA = load_dataset("digits")


def right(network: Network) -> float:
    """The share of test scans that the greatest output names."""
    with torch.inference_mode():
        said = network.readout(torch.tensor(DATA.test.inputs)).argmax(dim=1).numpy()
    return float((said == DATA.test.labels).mean())


class Scores(Callback):
    """The greedy policy's return at each of STEPS."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.returns: list[float] = []

    def on_step(self, tick: Tick) -> None:
        """Score where a step is one of STEPS."""
        if tick.total_steps in STEPS and tick.steps_before < tick.total_steps:
            self.returns.append(PICTURES * right(self.training.session.learner.online))


def agent(seed: int, torso: dict[str, Any], save_to: Path | None = None) -> list[float]:
    """Train an agent; its returns at STEPS."""
    own = {} if torso else NET
    config = DQNConfig(**AGENT, **own, **torso)
    training = Training(World(env="torso/Digits-v0"), config, seed=seed)
    scores = Scores(training)
    for _ in training.run(STEPS[-1], callbacks=[scores]):
        pass
    if save_to is not None:
        training.save(save_to, best=False, onnx=False)
    return scores.returns


def classifier(seed: int, number: int, torso: dict[str, Any]) -> float:
    """Fit to so many labelled scans; the share of test scans that are named."""
    train = DATA.train
    shuffled = np.random.default_rng(seed).permutation(len(train.labels))
    each = [shuffled[train.labels[shuffled] == digit][: number // 10] for digit in range(10)]
    rows = np.concatenate(each)
    own = {} if torso else NET
    fitted = Classifier(**own, **torso, validation_fraction=0, random_state=seed, num_threads=1, device="cpu")
    return right(fitted.fit(train.inputs[rows], train.labels[rows]).network_)


class Sources(NamedTuple):
    """Model directories whose torsos the agents begin with, and the share of test scans that ``whole`` names."""

    whole: str
    half: str
    random: str
    whole_right: float


def sources(seed: int, where: Path) -> Sources:
    """A classifier of all training scans, one of the digits 0 to 4, and a network that learnt nothing."""
    X, y = DATA.train.inputs, DATA.train.labels
    whole, half = (
        Classifier(**NET, random_state=seed, num_threads=1, device="cpu").fit(X[rows], y[rows]).network_
        for rows in (y >= 0, y < 5)
    )
    random = build_network(whole.spec, torch.Generator().manual_seed(seed + 1_000))
    saved = {
        name: str(save_model(where / f"{name}-{seed}", network, kind="classifier", onnx=False))
        for name, network in (("whole", whole), ("half", half), ("random", random))
    }
    return Sources(saved["whole"], saved["half"], saved["random"], right(whole))


def frozen(source: str) -> dict[str, Any]:
    """Settings that take a torso and keep it as it is."""
    return {"init_torso": source, "freeze_torso": True}


def spread(values: list[float], form: Callable[[float], str]) -> str:
    """Mean and standard deviation."""
    return f"{form(statistics.mean(values))} ± {form(statistics.stdev(values))}"


def main() -> None:
    """Run both parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)
    began_s, report = time.perf_counter(), Report("shared_torso")
    acting: dict[str, list[list[float]]] = {}
    labelling: dict[str, list[list[float]]] = {}
    ceiling = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            source, played = sources(seed, Path(folder)), Path(folder) / f"agent-{seed}"
            ceiling.append(PICTURES * source.whole_right)
            acting.setdefault("fresh weights", []).append(agent(seed, {}, save_to=played))
            for name, torso in (
                ("the classifier's torso", {"init_torso": source.whole}),
                ("the same, frozen", frozen(source.whole)),
                ("the torso of a classifier of 0 to 4", {"init_torso": source.half}),
                ("that one, frozen", frozen(source.half)),
                ("a random torso, frozen", frozen(source.random)),
            ):
                acting.setdefault(name, []).append(agent(seed, torso))
            for name, torso in (
                ("fresh weights", {}),
                ("the agent's torso", {"init_torso": str(played)}),
                ("the same, frozen", frozen(str(played))),
                ("a random torso, frozen", frozen(source.random)),
            ):
                labelling.setdefault(name, []).append([classifier(seed, number, torso) for number in LABELS])
    report.data.update(acting=acting, labelling=labelling, classifier=ceiling, seconds=time.perf_counter() - began_s)
    report.say(
        f"Return of an episode of {PICTURES} pictures after so many steps, {len(seeds)} seeds (guessing: 2.0; the"
    )
    report.say(f"classifier whose torso it is: {spread(ceiling, '{:.1f}'.format)})")
    report.say()
    _table(report, [f"{steps:,} steps" for steps in STEPS], acting, "{:.1f}".format)
    report.say(f"Test accuracy of a classifier of so few labelled scans, {len(seeds)} seeds")
    report.say()
    _table(report, [f"{number} labels" for number in LABELS], labelling, "{:.1%}".format)
    report.say(f"{report.data['seconds']:.0f} seconds, one thread")
    report.write()


def _table(
    report: Report, columns: list[str], sides: dict[str, list[list[float]]], form: Callable[[float], str]
) -> None:
    rows = [[name, *(spread(list(column), form) for column in zip(*runs, strict=True))] for name, runs in sides.items()]
    report.table(["begins with", *columns], rows)


if __name__ == "__main__":
    main()
