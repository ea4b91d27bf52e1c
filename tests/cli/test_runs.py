"""Run directories of fit and train: output, files, and rejected runs."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from torso.agents.runs.run_directory import RunDirectory
from torso.nets import load_model

Run = Callable[..., Any]
TRAIN = ["train", "dqn", "--env", "CartPole-v1"]
SMALL = shlex.split(
    "--steps 400 --num-envs 1 --hidden 16 --min-replay-size 100 --learn-period 4 --updates-per-phase 1 --batch-size 8 "
    "--evaluation-period 200 --evaluation-episodes 2 --checkpoint-period 200 --log-period 100"
)


def test_train_then_evaluate_play_and_resume(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "cartpole"
    ended = run(*TRAIN, *SMALL, "--seed", 1, "--out", out, "--json")
    assert ended.code == 0
    started, source, given = ended.err.splitlines()
    assert started == f"dqn on CartPole-v1, 400 steps, seed 1: {out}"
    assert source.startswith("preset from RL Baselines3 Zoo, dqn.yml, CartPole-v1")
    assert ": hidden 256 256, " in source
    assert given.startswith("given: hidden 16, num_envs 1, ")
    summary = json.loads(ended.out)
    assert (summary["total_steps"], summary["seed"], summary["env_id"]) == (400, 1, "CartPole-v1")
    assert (summary["run"], summary["model"]) == (str(out), str(out / "best"))
    assert RunDirectory.open(out).settings["hidden"] == [16]
    assert (out / "learning_curve.png").stat().st_size > 0
    assert load_model(out)[0].provenance["seed"] == 1

    evaluated = run("evaluate", out, "--episodes", 2, "--json")
    assert (evaluated.code, evaluated.err) == (0, "")
    assert json.loads(evaluated.out)["returns"] == summary["score"]["returns"]
    played = run("play", "--model", out, "--episodes", 2, "--seed", 1)
    assert (played.code, played.err) == (0, "")
    first, second = summary["score"]["returns"]
    assert played.out.splitlines() == [
        f"episode 1: return {first:.1f}, {first:.0f} steps",
        f"episode 2: return {second:.1f}, {second:.0f} steps",
        f"mean return {(first + second) / 2:,.1f}",
    ]

    again = run("train", "--out", out, "--resume")  # is at its end: scored again, to the same figures
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[0].startswith(
        f"CartPole-v1: mean return {summary['score']['mean_return']:.1f} over 2 "
    )

    settings = RunDirectory.open(out).settings
    assert (settings["algorithm"], settings["wrappers"], settings["video_period"]) == ("dqn", [], 0)
    assert run(*TRAIN, *SMALL, "--out", out).error.startswith(f"{out} already holds a run: add --resume")
    refused = run("train", "--out", out, "--resume", "--batch-size", 4).error
    assert refused.startswith(f"{out} was begun with other settings: --batch-size was 8, now 4.")
    assert run("fit", "--out", out, "--resume").error == f"{out} holds a train run, this is fit; give another --out"


WRAPPED = """
import gymnasium as gym
class Mirrored(gym.ActionWrapper):
    def action(self, action): return 1 - action
class Short(gym.wrappers.TimeLimit):
    def __init__(self, env): super().__init__(env, 7)
"""


def test_wrappers_algorithm_and_videos_are_kept_with_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wrapped_for_cli.py").write_text(WRAPPED)
    monkeypatch.syspath_prepend(tmp_path)
    out, names = tmp_path / "run", ["wrapped_for_cli:Mirrored", "wrapped_for_cli:Short"]
    train = ("train", "double", "--env", "CartPole-v1", *SMALL, "--wrapper", names[0], "--wrapper", names[1])
    ended = run(*train, "--video-period", 200, "--out", out, "--json")
    assert ended.code == 0, ended.err
    assert "wrapper wrapped_for_cli:Mirrored wrapped_for_cli:Short" in ended.err.splitlines()[2]
    summary = json.loads(ended.out)
    assert summary["score"]["returns"] == [7.0, 7.0]
    settings = RunDirectory.open(out).settings
    assert (settings["algorithm"], settings["double"]) == ("double", True)
    assert (settings["wrappers"], settings["video_period"]) == (names, 200)
    assert sorted(path.name for path in (out / "videos").iterdir()) == ["step-00000200.mp4", "step-00000400.mp4"]

    assert json.loads(run("evaluate", out, "--episodes", 2, "--json").out)["returns"] == [7.0, 7.0]
    assert run("play", "--model", out).out.splitlines()[0] == "episode 1: return 7.0, 7 steps"
    for again in (["train"], [*train, "--video-period", 0]):  # its settings are found, or given again
        refused = run(*again, "--out", out, "--resume", "--batch-size", 4).error
        assert refused.startswith(f"{out} was begun with other settings: --batch-size was 8, now 4. Resume with ")
    assert "wrappers was" in run("train", "--out", out, "--resume", "--wrapper", names[0]).error
    (tmp_path / "wrapped_for_cli.py").write_text("")
    monkeypatch.delitem(sys.modules, "wrapped_for_cli")
    assert run("evaluate", out).error.startswith("wrapper 'wrapped_for_cli:Mirrored': ")


def test_fit_then_evaluate_export_and_resume(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "digits"
    fit = ("fit", "--dataset", "digits", "--hidden", 32, "--out", out)
    ended = run(*fit, "--max-epochs", 3, "--seed", 4)
    assert ended.code == 0
    assert ended.err.startswith("mlp on digits, 1,266 examples and 178 for validation, at most 3 epochs, seed 4")
    lines = ended.out.splitlines()
    summary = RunDirectory.open(out).read_summary()
    assert summary is not None
    expected = f"digits: test accuracy {summary['test_accuracy']:.2%} ({summary['test_errors']} errors in 353)"
    assert lines[0] == expected
    assert lines[2:] == [f"model: {out / 'best'}", f"curve: {out / 'learning_curve.png'}"]

    assert run("evaluate", out).out.splitlines()[0] == expected
    figures = json.loads(run("evaluate", out, "--dataset", "digits", "--json").out)
    assert (figures["test_accuracy"], figures["num_test"]) == (summary["test_accuracy"], 353)
    (out / "best" / "model.onnx").unlink()
    assert run("export", out).out.startswith(f"{out / 'best' / 'model.onnx'}  ")
    assert (out / "best" / "model.onnx").exists()

    again = run("fit", "--out", out, "--resume", "--json")
    assert (again.code, again.err) == (0, "")
    assert json.loads(again.out) == {**summary, "run": str(out), "model": str(out / "best")}


NOTHING_WRITTEN = [
    ([*TRAIN[:-1], "CartPol-v1"], "unknown environment 'CartPol-v1'; did you mean 'CartPole-v1' or "),
    (
        [*TRAIN[:-1], "Pendulum-v1"],
        "Pendulum-v1 must have Discrete actions, got Box(-2.0, 2.0, (1,), float32); choose another env",
    ),
    ([*TRAIN, "--net", "cnn"], "a convolutional torso takes images (layout hw, chw or hwc), this input is a vector"),
    ([*TRAIN, "--net", "resnet"], "unknown net 'resnet'; known are mlp, cnn, lenet, nature"),
    ([*TRAIN, "--steps", "0"], "--steps must be at least 1, got 0"),
    ([*TRAIN, "--env-kwargs", "[1]"], "--env-kwargs must be a JSON object such as '{\"size\": 3}', got [1]"),
    ([*TRAIN, "--env-kwargs", "{"], "--env-kwargs must be a JSON object such as '{}', got '{' ("),
    ([*TRAIN, "--device", "gpu"], "device must be auto, cpu or cuda, got 'gpu'"),
    (["train", "dqm", "--env", "CartPole-v1"], "unknown algorithm 'dqm'; known are dqn, double, "),
    ([*TRAIN, "--wrapper", "gymnasium.wrappers:Nothing"], "wrapper 'gymnasium.wrappers:Nothing': "),
    (
        [*TRAIN, "--wrapper", "Nothing"],
        "wrapper must be 'module:Name', such as 'gymnasium.wrappers:TimeAwareObservation', got 'Nothing'",
    ),
    ([*TRAIN, "--video-period", "-5"], "--video-period must be a number of steps, or 0 for no videos; got -5"),
    (
        ["train", "dqn", "--env", "torso/Identity-v0", "--video-period", "5"],
        "torso/Identity-v0 cannot be rendered as 'rgb_array'",
    ),
    (["fit", "--dataset", "digit"], "unknown data set 'digit'; known: digits, mnist, fashion-mnist, iris, "),
    (["fit", "--net", "resnet"], "unknown net 'resnet'; known are perceptron, logistic, softmax, linear, mlp, lenet, "),
    (["fit", "--net", "nature"], "an image of 8x8 pixels is too small for these convolutions, which need at least"),
    (["fit", "--max-epochs", "0"], "--max-epochs must be a whole number of at least 1; got 0"),
    (
        ["fit", "--data-dir", "."],
        "--data-dir must be omitted for 'digits', which comes with scikit-learn and reads no files, got .",
    ),
    (["fit", "--dataset", "mnist", "--data-dir", "."], "mnist must have train-images-idx3-ubyte.gz, "),
]


@pytest.mark.parametrize(("arguments", "message"), NOTHING_WRITTEN)
def test_what_cannot_work_is_refused_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments).error.startswith(message)
    assert run(*arguments, "--out", "given").error.startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[*TRAIN, *SMALL], ["fit", "--max-epochs", "1"]])
def test_a_directory_that_is_not_a_run_stays_as_it_is(run: Run, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    error = run(*command, "--out", tmp_path).error
    assert error == f"{tmp_path} is not a run: it has no config.json; give a run's directory, or a new one"
    assert run(*command, "--out", tmp_path / "thesis.tex").error.startswith(f"{tmp_path / 'thesis.tex'} is a file")
    assert run(*command, "--out", tmp_path, "--resume").error == error
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("command", [[*TRAIN, *SMALL], ["fit", "--max-epochs", "1"]])
def test_a_directory_that_cannot_be_written_is_an_error(run: Run, command: list[str], read_only: Path) -> None:
    assert run(*command, "--out", read_only / "run").error.startswith(
        f"cannot create the directory {read_only / 'run'}: "
    )


@pytest.mark.parametrize("command", [[*TRAIN, *SMALL, "--hidden", "128", "128"], ["fit", "--max-epochs", "1"]])
def test_a_full_disk_leaves_nothing_half_written(
    run: Run, tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]], command: list[str]
) -> None:
    out = tmp_path / "run"
    with largest_file(8_000):  # the run's description fits, its weights do not
        ended = run(*command, "--out", out)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[-1].startswith("error: cannot write ")
    assert not list(out.rglob("*.tmp"))
    assert not list(out.rglob("weights.safetensors"))
    if command[0] == "train":
        assert run("train", "--out", out, "--resume").code == 0  # there is room again


def test_pqn_is_trained_and_resumed_by_its_own_options(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "pqn"
    small = ("--num-envs", 4, "--rollout-steps", 10, "--num-minibatches", 4, "--hidden", 16, "--evaluation-period", 200)
    ended = run("train", "pqn", "--env", "CartPole-v1", "--steps", 200, "--json", *small, "--out", out)
    assert ended.code == 0, ended.err
    assert 200 <= json.loads(ended.out)["total_steps"] < 240  # to the end of a rollout
    assert "rollout_steps 10" in ended.err
    again = run("train", "--out", out, "--steps", 400, "--resume", "--json")
    assert again.code == 0, again.err
    assert 400 <= json.loads(again.out)["total_steps"] < 440
    assert run("evaluate", out, "--episodes", 2).code == 0
    refused = run("train", "--out", out, "--steps", 500, "--resume", "--epochs", 3).error
    assert refused.startswith(f"{out} was begun with other settings: epochs was 4, now 3.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--env", "CartPole-v1", "pqn"), "algorithm must be the first argument .*; give torso train pqn --env Cart"),
        (("pqn", "--env", "CartPole-v1", "--double"), "unrecognized options: --double"),
        (("dqn", "--env", "CartPole-v1", "--rollout-steps", 8), "unrecognized options: --rollout-steps"),
        (("pqm", "--env", "CartPole-v1"), "unknown algorithm 'pqm'; .*did you mean pqn"),
        (("pqn", "--env", "CartPole-v1", "--num-minibatches", 7), "--num-minibatches must divide the 2,048 steps"),
        (("pqn", "--env", "CartPole-v1", "--trace-decay", 2), "--trace-decay must"),
    ],
)
def test_wrong_arguments_of_pqn_are_named(
    run: Run, arguments: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    assert re.match(message, run("train", *arguments, "--out", tmp_path / "run").error)
    assert not (tmp_path / "run").exists()
