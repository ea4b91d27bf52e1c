"""Quickstart benchmark: its seconds, digits accuracy and CartPole returns over seeds, and equal answers.

python benchmarks/quickstart.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import Report

from torso.agents.presets.lookup import preset
from torso.agents.supervised.config import ClassifierConfig
from torso.agents.supervised.fit_runs import fit_run
from torso.agents.training.train_runs import train_run
from torso.envs import load_dataset
from torso.envs.vector.world import World
from torso.nets import Predictor
from torso.serve import Client

RTOL, ATOL = 1e-4, 1e-5


def quickstart_seconds(report: Report, folder: Path) -> None:
    """The command as a user runs it, three times."""
    seconds = []
    for attempt in range(3):
        began_s = time.perf_counter()
        command = [sys.executable, "-m", "torso.cli", "quickstart", "--seed", str(attempt)]
        subprocess.run([*command, "--out", str(folder / f"quickstart-{attempt}")], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began_s)
    report.data["quickstart_s"] = seconds
    report.say(f"torso quickstart: {statistics.median(seconds):.1f} s, median of {[round(s, 1) for s in seconds]}")
    report.say()


def digits(report: Report, folder: Path, seeds: int) -> None:
    """Test accuracy of `torso fit --dataset digits --net cnn`; validation chooses the epoch, test labels nothing."""
    rows: list[list[Any]] = []
    accuracies = []
    for seed in range(seeds):
        began_s = time.perf_counter()
        out = folder / f"digits-{seed}"
        summary = fit_run(load_dataset("digits"), ClassifierConfig(net="cnn"), seed=seed, out=out).summary or {}
        accuracies.append(summary["test_accuracy"])
        seconds = time.perf_counter() - began_s
        rows.append(
            [seed, f"{summary['test_accuracy']:.2%}", summary["test_errors"], summary["epochs"], f"{seconds:.1f}"]
        )
    report.data["digits_test_accuracy"] = accuracies
    report.table(["seed", "digits test accuracy", "errors of 353", "epochs", "seconds"], rows)
    report.say(f"median {statistics.median(accuracies):.2%}, from {min(accuracies):.2%} to {max(accuracies):.2%}")
    report.say()


def cartpole(report: Report, folder: Path, seeds: int) -> None:
    """Greedy returns of best/ on fresh seeds, within the preset's 50,000 steps."""
    known = preset(None, "CartPole-v1")
    rows: list[list[Any]] = []
    for seed in range(seeds):
        began_s = time.perf_counter()
        result = train_run(
            World(env="CartPole-v1"),
            known.config,
            total_steps=known.total_steps,
            seed=seed,
            out=folder / f"cartpole-{seed}",
        )
        summary, seconds = result.summary or {}, time.perf_counter() - began_s
        score = summary["score"]
        mean = f"{score['mean_return']:.1f} ± {score['std_return']:.1f}"
        rows.append([seed, mean, score["min_return"], summary["best_step"], f"{seconds:.1f}"])
    report.data["cartpole"] = rows
    report.table(["seed", "mean return of 20 fresh episodes", "least", "best step", "seconds for 50,000 steps"], rows)
    solved = sum(float(row[1].split()[0]) >= 475 for row in rows)
    report.say(f"475 or more: {solved} of {len(rows)} seeds")
    report.say()


def equality(report: Report, folder: Path) -> None:
    """Served answers beside local ones, for batches of 1 and of 64, by both backends."""
    test = load_dataset("digits").test.inputs
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    rows: list[list[Any]] = []
    for backend in ("onnx", "torch"):
        port_file = folder / f"port-{backend}"
        command = [sys.executable, "-m", "torso.cli", "serve", f"digits={folder / 'digits-0'}"]
        command += [f"cartpole={folder / 'cartpole-0'}", "--port", "0", "--port-file", str(port_file)]
        server = subprocess.Popen([*command, "--backend", backend], stderr=subprocess.DEVNULL)
        try:
            while not port_file.exists():
                if server.poll() is not None:
                    raise SystemExit(f"the server ended with {server.returncode}")
                time.sleep(0.05)
            with Client(f"127.0.0.1:{port_file.read_text().strip()}") as client:
                for batch in (1, 64):
                    served = client.act("cartpole", observations[:batch]).values
                    rows.append(
                        [
                            backend,
                            "cartpole values",
                            batch,
                            *compared(folder / "cartpole-0", observations[:batch], served),
                        ]
                    )
                    answer = client.classify("digits", test[:batch], top_k=10)
                    ranked = np.empty_like(answer.probabilities)
                    np.put_along_axis(ranked, answer.indices, answer.probabilities, axis=1)
                    rows.append(
                        [backend, "digits probabilities", batch, *compared(folder / "digits-0", test[:batch], ranked)]
                    )
        finally:
            server.terminate()
            server.wait(timeout=30)
    report.data["equality"] = rows
    report.table(
        ["served by", "what", "batch", "bits equal to local torch", "most apart", "equal as defined", "same top-1"],
        rows,
    )


def compared(model: Path, inputs: np.ndarray, served: np.ndarray) -> list[Any]:
    """Served numbers against those of the local predictor."""
    predictor = Predictor.load(model)
    local = predictor.run(predictor.prepare(inputs))
    if predictor.kind == "classifier":
        local = predictor.probabilities(local)
    apart = f"{np.abs(local - served).max():.1e}"
    same = bool((local.argmax(axis=1) == served.argmax(axis=1)).all())
    return [bool(np.array_equal(local, served)), apart, bool(np.allclose(served, local, rtol=RTOL, atol=ATOL)), same]


def main() -> None:
    """Run all four and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    report = Report("quickstart")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        quickstart_seconds(report, folder)
        digits(report, folder, seeds)
        cartpole(report, folder, seeds)
        equality(report, folder)
    report.write()


if __name__ == "__main__":
    main()
