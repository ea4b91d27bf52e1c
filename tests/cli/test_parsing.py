"""Argument parsing: options override presets and resumed settings; errors are one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from torso.agents.supervised.config import ClassifierConfig
from torso.agents.supervised.recipes import fit_preset
from torso.agents.value_based.config import DQNConfig
from torso.agents.value_based.presets import preset
from torso.cli.commands.fit import FitOptions, FitSettings
from torso.cli.commands.fit import presets as fit_presets
from torso.cli.commands.train import TrainOptions
from torso.cli.commands.train import presets as train_presets
from torso.cli.parsing import option_value, parse_options
from torso.errors import ConfigError

Run = Callable[..., Any]
CARTPOLE = ["dqn", "--env", "CartPole-v1"]


def train(*arguments: object) -> TrainOptions:
    words = [str(argument) for argument in arguments]
    options = parse_options(TrainOptions, words, "train", train_presets(words))
    assert options is not None
    return options


def fit(*arguments: object) -> FitOptions:
    words = [str(argument) for argument in arguments]
    options = parse_options(FitOptions, words, "fit", fit_presets(words))
    assert options is not None
    return options


def test_settings_that_are_not_given_are_the_presets() -> None:
    known = preset("dqn", "CartPole-v1")
    assert train(*CARTPOLE) == TrainOptions(
        algorithm="dqn", env="CartPole-v1", steps=known.total_steps, config=known.config
    )
    assert train("dqn", "--env=CartPole-v1").config == known.config
    anywhere = train("--env", "CartPole-v1", "--seed", 1, "dqn")
    assert (anywhere.settings, anywhere.seed) == (train(*CARTPOLE).settings, 1)
    assert train("dqn", "--env", "Taxi-v3").config == DQNConfig()
    assert train("double", "--env", "CartPole-v1").config.double
    assert train("--env", "CartPole-v1").settings == preset(None, "CartPole-v1").config
    assert train("--algorithm", "double", "--env", "CartPole-v1").settings == preset("double", "CartPole-v1").config
    late = train("--env", "CartPole-v1", "dueling").settings
    assert late == preset("dueling", "CartPole-v1").config
    with pytest.raises(ConfigError, match="algorithm must be given once, got dqn and --algorithm double"):
        train(*CARTPOLE, "--algorithm", "double")
    assert json.loads(train("dqn", "--env", "ALE/Pong-v5").env_kwargs) == {"protocol": "dqn2015"}


def test_settings_that_are_given_override_the_preset_alone() -> None:
    options = train(*CARTPOLE, "--batch-size", 32, "--hidden", 8, 9, "--double", "--max-grad-norm", "None", "--steps=7")
    expected = replace(
        preset("dqn", "CartPole-v1").config, batch_size=32, hidden=(8, 9), double=True, max_grad_norm=None
    )
    assert (options.config, options.steps) == (expected, 7)


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (CARTPOLE, "runs/CartPole-v1-dqn-0"),
        (["dqn", "--env", "a.b:ALE/Pong-v5", "--seed", 3], "runs/a.b-ALE-Pong-v5-dqn-3"),
    ],
)
def test_the_run_directory_has_a_default(arguments: list[object], out: str) -> None:
    assert train(*arguments).run_path == Path(out)
    assert fit("--net", "cnn", "--seed", 2).run_path == Path("runs/digits-cnn-2")


def test_fit_offers_every_setting_that_it_uses() -> None:
    options = fit("--net", "cnn", "--max-epochs", 3, "--hidden", 5, "--patience", "None", "--dropout", 0.5)
    expected = {**fit_preset("cnn", "digits"), "max_epochs": 3, "hidden": (5,), "patience": None, "dropout": 0.5}
    assert options.config == FitSettings(**expected)
    assert isinstance(options.config, ClassifierConfig)


def test_a_resume_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    begun = train(*CARTPOLE, "--steps", 7, "--seed", 5, "--double", "--batch-size", 2, "--env-kwargs", '{"a": [1]}')
    out = tmp_path / "run"
    out.mkdir()
    settings = {"algorithm": "dqn", "env_id": "CartPole-v1", "env_kwargs": {"a": [1]}, "wrappers": [], "total_steps": 7}
    config = {
        "torso_run": 1,
        "kind": "train",
        "seed": 5,
        "resolved": {},
        "settings": {**settings, **asdict(begun.config)},
    }
    (out / "config.json").write_text(json.dumps(config))

    resumed = train("--out", out, "--resume")
    assert resumed == replace(begun, algorithm=None, out=out, resume=True)
    again = train(*CARTPOLE, "--out", out, "--resume", "--steps", 9, "--double")
    assert again == replace(resumed, algorithm="dqn", steps=9)
    assert again.settings == begun.settings
    assert (
        train(*CARTPOLE, "--out", out).config == preset("dqn", "CartPole-v1").config
    )  # without --resume, it is not read
    assert fit("--out", out, "--resume") == replace(fit(), out=out, resume=True)  # nor by another kind


def test_option_value() -> None:
    words = ["--seed", "1", "--out=a=b", "--seed", "2", "--last"]
    found = [option_value(words, option) for option in ("--seed", "--out", "--last", "--env")]
    assert found == ["2", "a=b", None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["export"],
            "missing from torso export: MODEL A model directory, or a run directory, whose best model is used.",
        ),
        (["train"], "missing from torso train: --env"),
        (
            ["train", *CARTPOLE, "--batch-siz", "3"],
            "unrecognized options: --batch-siz, 3; perhaps you meant: --batch-size",
        ),
        (["train", *CARTPOLE, "--steps", "many"], "--steps: invalid literal for int() with base 10: 'many'"),
        (["train", *CARTPOLE, "--steps"], "missing value for argument '--steps'. Expected 1 values."),
        (["train", *CARTPOLE, "--precision", "half"], "invalid choice 'half' for argument '--precision'."),
        (["train", *CARTPOLE, "--batch-size", "0"], "batch_size must be a whole number of at least 1, got 0"),
        (["fit", "--validation-fraction", "0.5"], "unrecognized options: --validation-fraction, 0.5"),
        (["serve"], "models must hold at least one model or run directory, got none; name one, or a repository"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run: Run, arguments: list[str], message: str) -> None:
    error = run(*arguments).error
    assert error.startswith(message)
    assert not any(mark in error for mark in "│╭╰─")
