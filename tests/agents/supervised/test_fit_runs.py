"""Fit runs: the files of a run directory, exact resume, and kills at any moment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torso.agents.estimators.classifier import Classifier
from torso.agents.runs.trackers import read_jsonl
from torso.agents.supervised.config import ClassifierConfig
from torso.agents.supervised.fit_runs import FitResult, fit_run
from torso.agents.supervised.fitting import BatchDone, EpochDone, FitEvent
from torso.envs import Dataset, Splits, load_dataset
from torso.errors import ConfigError, InputError, RunError, StorageError
from torso.nets import Predictor, onnx_path, read_card

CONFIG = ClassifierConfig(net="cnn", hidden=(16,), max_epochs=3, max_shift_px=1, device="cpu")


def few_digits() -> Splits:
    digits = load_dataset("digits")
    parts = zip(digits, (200, 60, 60), strict=True)
    train, validation, test = (part.take(slice(number)) for part, number in parts)
    return Splits(train=train, validation=validation, test=test)


def fit(
    out: Path, config: ClassifierConfig = CONFIG, *, seed: int = 0, data: Splits | None = None, **how: Any
) -> FitResult:
    return fit_run(data or few_digits(), config, seed=seed, out=out, **how)


def after(events: int) -> Callable[[], bool]:
    """Return a ``stop`` that is True after so many events."""
    left = [events]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    return stop


def results(run: Path) -> dict[str, bytes]:
    """Read the files that must be the same to the byte, however often a run was stopped."""
    names = ("progress.jsonl", "summary.json", "best/weights.safetensors", "model/weights.safetensors")
    return {name: (run / name).read_bytes() for name in names}


def test_what_a_fit_leaves_behind(tmp_path: Path) -> None:
    events: list[FitEvent] = []
    result = fit(tmp_path / "run", on_event=events.append)
    run, data = tmp_path / "run", few_digits()

    progress = read_jsonl(run / "progress.jsonl")
    ends = [event for event in events if isinstance(event, EpochDone)]
    assert [line["step"] for line in progress] == [event.epoch for event in ends] == [1, 2, 3]
    assert [line["loss"] for line in progress] == [event.loss for event in ends]
    assert sum(isinstance(event, BatchDone) for event in events) == 3 * 7
    assert len(read_jsonl(run / "timing.jsonl")) == 3

    summary = json.loads((run / "summary.json").read_bytes())
    assert result.summary == summary
    predictor = Predictor.load(run)
    wrong = sum(
        labels != [truth]
        for labels, truth in zip(predictor.classify(data.test.inputs).labels, data.test.labels, strict=True)
    )
    assert summary["test_errors"] == wrong
    assert summary["test_accuracy"] == 1 - wrong / 60
    best = progress[summary["best_epoch"] - 1]
    assert best["is_best"]
    assert (
        summary["validation_accuracy"]
        == best["validation_accuracy"]
        == max(line["validation_accuracy"] for line in progress)
    )

    card = read_card(run / "best")
    assert card.kind == "classifier"
    assert card.labels == tuple(range(10))
    assert card.network.input.dtype == "uint8"
    assert card.network.input.scale == 1 / 16
    assert card.network.input.image is not None
    assert card.provenance["seed"] == 0
    assert card.provenance["dataset"] == "digits"
    assert card.provenance["epoch"] == summary["best_epoch"]
    assert onnx_path(run / "best") is not None
    assert (run / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert np.array_equal(
        Classifier.load(run).predict(data.test.inputs), np.ravel(predictor.classify(data.test.inputs).labels)
    )


def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    for stop_at in (1, 4, 8, 9):  # the first step, in the middle of an epoch, its end, the next one's first step
        stopped = fit(tmp_path / "cut", resume=True, stop=after(stop_at))
        assert stopped.summary is None
        assert not (tmp_path / "cut" / "summary.json").exists()
    assert Predictor.load(tmp_path / "cut").labels == tuple(range(10))  # the best so far
    fit(tmp_path / "cut", resume=True)
    assert results(tmp_path / "cut") == results(tmp_path / "whole")
    fit(tmp_path / "cut", resume=True)  # an ended run stays as it is
    assert results(tmp_path / "cut") == results(tmp_path / "whole")


def test_a_resume_on_other_terms_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, stop=after(3))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    data = few_digits()
    other = Splits(train=data.train, validation=data.validation, test=data.test.take(slice(59)))
    for how, message in (
        ({}, "resume=True"),
        ({"resume": True, "seed": 1}, "seed was 0, now 1"),
        ({"resume": True, "data": other}, "data_sha256 was"),
        ({"resume": True, "config": ClassifierConfig(**{**vars(CONFIG), "dropout": 0.2})}, "dropout was null, now 0.2"),
        ({"resume": True, "config": ClassifierConfig(**{**vars(CONFIG), "max_epochs": 4})}, "max_epochs was 3, now 4"),
    ):
        with pytest.raises(RunError, match=message):
            fit(tmp_path, **how)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_fit_at_a_constant_rate_can_be_made_longer(tmp_path: Path) -> None:
    short, long = (
        ClassifierConfig(**{**vars(CONFIG), "schedule": "constant", "max_epochs": epochs}) for epochs in (2, 3)
    )
    fit(tmp_path / "whole", long)
    fit(tmp_path / "grown", short)
    fit(tmp_path / "grown", long, resume=True)
    assert results(tmp_path / "grown") == results(tmp_path / "whole")


def test_what_cannot_work_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="random_state must be None or the seed 0, got 3; leave it out"):
        fit(tmp_path / "run", ClassifierConfig(random_state=3))
    with pytest.raises(ConfigError, match="too small"):
        fit(tmp_path / "run", ClassifierConfig(net="nature"))
    rows = Dataset(name="rows", inputs=np.ones((4, 7)), labels=np.zeros(4, np.int64), label_names=(0, 1))
    with pytest.raises(InputError, match="square"):
        fit(tmp_path / "run", data=Splits(train=rows, validation=rows, test=rows))
    assert not (tmp_path / "run").exists()


def test_without_validation_or_test_data(tmp_path: Path) -> None:
    data = few_digits()
    data = Splits(train=data.train, validation=data.validation.take(slice(0)), test=data.test.take(slice(0)))
    summary = fit(tmp_path, data=data).summary
    assert summary is not None
    assert summary["best_epoch"] == 3
    assert summary["validation_accuracy"] is summary["test_accuracy"] is None
    assert not (tmp_path / "best").exists()
    assert Predictor.load(tmp_path).card.provenance["epoch"] == 3


def test_a_full_disk_costs_what_came_after_the_checkpoint(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    fit(tmp_path / "whole")
    fit(tmp_path / "full", stop=after(5))
    with largest_file(2000), pytest.raises(StorageError):
        fit(tmp_path / "full", resume=True)
    fit(tmp_path / "full", resume=True)
    assert results(tmp_path / "full") == results(tmp_path / "whole")


# Forks a child that fits, again and again, and kills it: first at the n-th file operation, so also in the middle of
# every kind of save, then after some milliseconds too, so also in the middle of a step. Each child resumes what the
# last one left. A save is some 30 operations and there are 25 saves: 12 kills within 40 operations each always fit.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents import ClassifierConfig
from torso.agents.supervised.fit_runs import fit_run
from torso.envs import Splits, load_dataset

torch.set_num_threads(1)
torch.optim.Adam([torch.zeros(1)])  # imports what the first optimizer imports, once for all children
digits = load_dataset("digits")
data = Splits(**{name: getattr(digits, name).take(slice(64)) for name in ("train", "validation", "test")})
config = ClassifierConfig(net="cnn", hidden=(8,), max_epochs=5, batch_size=16, max_shift_px=1, device="cpu")
out = Path(sys.argv[1])
chance = random.Random(0)

def fit(before):
    pid = os.fork()
    if pid == 0:
        before()
        fit_run(data, config, seed=0, out=out, resume=True, checkpoint_period_s=0.0)
        os._exit(0)
    return pid

def kill_at(operation):
    left = [operation]
    def count(event, arguments):
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(out)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)

def epochs_done():
    checkpoint = CheckpointStore(out / "checkpoint").load()
    return 0 if checkpoint is None else checkpoint.step

kills = 0
while epochs_done() < config.max_epochs:
    by_time = kills >= 12 and kills % 2 == 0
    operation = chance.randrange(1, 40)
    pid = fit((lambda: None) if by_time else (lambda: kill_at(operation)))
    if by_time:
        time.sleep(chance.uniform(0.02, 0.3))
        os.kill(pid, signal.SIGKILL)
    kills += os.waitpid(pid, 0)[1] != 0
assert os.waitpid(fit(lambda: None), 0)[1] == 0
print(kills)
"""


def test_a_fit_killed_again_and_again_gives_the_same_bits(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    parts = {name: getattr(digits, name).take(slice(64)) for name in ("train", "validation", "test")}
    config = ClassifierConfig(net="cnn", hidden=(8,), max_epochs=5, batch_size=16, max_shift_px=1, device="cpu")
    fit(tmp_path / "whole", config, data=Splits(**parts))
    command = [sys.executable, "-c", KILLER, str(tmp_path / "killed")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 12
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))
