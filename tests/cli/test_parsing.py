"""Argument parsing: options override presets and resumed settings; errors are one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from torso.agents.presets.lookup import preset
from torso.agents.supervised.config import ClassifierConfig
from torso.agents.supervised.recipes import fit_preset
from torso.agents.value_based.config import DQNConfig
from torso.cli.arguments.flags import in_flags
from torso.cli.arguments.options import options_of
from torso.cli.commands.fit import FitOptions, FitSettings
from torso.cli.commands.fit import presets as fit_presets
from torso.cli.commands.train import TrainOptions
from torso.cli.commands.train import presets as train_presets
from torso.cli.entry import COMMANDS
from torso.cli.parsing import option_value, parse_options
from torso.errors import ConfigError, RunError

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


@pytest.mark.parametrize(("parse", "before"), [(train, CARTPOLE), (fit, [])], ids=["train", "fit"])
def test_layer_norm_stays_a_flag_beside_its_kind(parse: Callable[..., Any], before: list[str]) -> None:
    def settings(*arguments: str) -> tuple[bool, str]:
        found = parse(*before, *arguments).config
        return found.layer_norm, found.layer_norm_kind

    assert settings() == (False, "image")
    assert settings("--layer-norm") == (True, "image")
    assert settings("--no-layer-norm") == (False, "image")
    for kind in ("image", "channels", "elements"):
        assert settings("--layer-norm", "--layer-norm-kind", kind) == (True, kind)
    with pytest.raises(ConfigError, match="--layer-norm-kind must be one of image, channels, elements, got 'pixel'"):
        settings("--layer-norm", "--layer-norm-kind", "pixel")


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
    with pytest.raises(RunError, match="holds a train run, this is fit"):
        fit("--out", out, "--resume")


def test_option_value() -> None:
    words = ["--seed", "1", "--out=a=b", "--seed", "2", "--last"]
    found = [option_value(words, option) for option in ("--seed", "--out", "--last", "--env")]
    assert found == ["2", "a=b", None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export"], "missing from torso export: MODEL; torso export --help lists the options"),
        (["train"], "missing from torso train: --env ENV; "),
        (["act", "[0]"], "missing from torso act: --model MODEL; "),
        (
            ["train", *CARTPOLE, "--batch-siz", "3"],
            "unrecognized options: --batch-siz, 3; perhaps you meant: --batch-size",
        ),
        (["train", *CARTPOLE, "--steps", "many"], "--steps must be a whole number such as 1000 or 1e3, got 'many'"),
        (
            ["train", *CARTPOLE, "--steps"],
            "--steps must be followed by a whole number such as 1000 or 1e3, got nothing; ",
        ),
        (["train", *CARTPOLE, "--precision", "half"], "--precision must be one of auto, float32, bfloat16, got 'half'"),
        (["train", *CARTPOLE, "--batch-size", "0"], "--batch-size must be a whole number of at least 1, got 0"),
        (["fit", "--validation-fraction", "0.5"], "unrecognized options: --validation-fraction, 0.5"),
        (["serve"], "models must hold at least one model or run directory, got none; name one, or a repository"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(run: Run, arguments: list[str], message: str) -> None:
    error = run(*arguments).error
    assert error.startswith(message)
    assert not any(mark in error for mark in "│╭╰─")


@pytest.mark.parametrize("written", ["100000", "100_000", "1e5", "1E5", "100e3", "+100000", "100000.0"])
def test_a_whole_number_may_be_written_as_one_likes(written: str) -> None:
    assert train(*CARTPOLE, "--steps", written).steps == 100_000
    assert train(*CARTPOLE, f"--replay-capacity={written}").config.replay_capacity == 100_000
    assert fit("--max-epochs", written).config.max_epochs == 100_000
    assert train(*CARTPOLE, "--evaluation-period", written).config.evaluation_period == 100_000


@pytest.mark.parametrize(
    "written", ["1.5", "1e-3", "1e99", "1e999999999", "nan", "inf", "100k", "0x10", "1 000", "", "1,5"]
)
def test_what_is_no_whole_number_is_refused(run: Run, written: str) -> None:
    error = run("train", *CARTPOLE, "--steps", written).error
    assert error.startswith(f"--steps must be a whole number such as 1000 or 1e3, got {written!r}")


def test_values_by_type() -> None:
    given = train(
        *(*CARTPOLE, "--hidden", "64,32", "--learning-rate", "1e-3", "--huber-delta", "NONE", "--stop-return", "-5"),
        *("--no-double", "--video-period", "-5", "--init-torso", "none", "--wrapper", "a:B", "--wrapper=c:D"),
    )
    assert (given.config.hidden, given.config.learning_rate, given.config.huber_delta) == ((64, 32), 1e-3, None)
    assert (given.config.stop_return, given.config.double, given.video_period) == (-5.0, False, -5)
    assert (given.config.init_torso, given.wrapper) == (None, ("a:B", "c:D"))
    assert train(*CARTPOLE, "--hidden").config.hidden == ()
    assert train(*CARTPOLE, "--batch_size", "32").config.batch_size == 32
    assert fit("--batch-size", "full").config.batch_size == "full"
    assert fit("--batch-norm").config.batch_norm is True
    assert fit("--no-batch-norm").config.batch_norm is False
    assert fit("--batch-norm", "False").config.batch_norm is False
    assert fit("--batch-norm", "None").config.batch_norm is None
    assert fit("--out", "None").out == Path("None")


@pytest.mark.parametrize(
    ("command", "word", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--total-steps", "--steps"),
        ("train", "--total_timesteps", "--steps"),
        ("train", "--step", "--steps"),
        ("train", "--epochs", "--steps"),
        ("train", "--discount", "--gamma"),
        ("train", "--batch", "--batch-size"),
        ("train", "--buffer-size", "--replay-capacity"),
        ("train", "--environment", "--env"),
        ("train", "-o", "--out"),
        ("train", "--tau", "--target-update-rate"),
        ("fit", "--lr", "--learning-rate"),
        ("fit", "--epochs", "--max-epochs"),
        ("fit", "--batch", "--batch-size"),
        ("fit", "--data", "--dataset"),
        ("fit", "--learning_rat", "--learning-rate"),
        ("fit", "--no-layer-nrm", "--layer-norm"),
        ("evaluate", "--n-episodes", "--episodes"),
        ("serve", "-p", "--port"),
    ],
)
def test_other_names_are_hinted_at(run: Run, command: str, word: str, meant: str) -> None:
    needed = {"evaluate": ["model"], "serve": ["model"], "train": CARTPOLE}.get(command, [])
    error = run(command, *needed, word, "1").error
    assert error == (
        f"unrecognized options: {word}, 1; perhaps you meant: {meant}; torso {command} --help lists the options"
    )


def test_several_mistakes_are_said_together(run: Run) -> None:
    assert run("fit", "--lr", "1", "--gpu", "--xyzzy").error == (
        "unrecognized options: --lr, 1, --gpu, --xyzzy; perhaps you meant: --learning-rate, --device; torso "
        "fit --help lists the options"
    )
    assert run("fit", "digits").error.startswith("unrecognized arguments: digits; ")
    assert run("export", "a", "b").error.startswith("unrecognized arguments: b; ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_help_once_and_has_a_text(run: Run, name: str) -> None:
    options = getattr(import_module(f"torso.cli.commands.{name.replace('-', '_')}"), COMMANDS[name].options)
    known = options_of(options)
    assert all(option.text for option in known)
    sectioned = [each for names in getattr(options, "sections", {}).values() for each in names]
    assert len(sectioned) == len(set(sectioned))
    assert set(sectioned) <= {option.name for option in known}
    page = run(name, "--help").out
    for option in {option.name: option for option in reversed(known)}.values():
        assert len(re.findall(rf"^  {re.escape(option.label)}\b(?!-)", page, re.MULTILINE)) == 1, option.label
    assert not re.search(r"\bNone\b|[{}|]\{|\bINT\b|\bFLOAT\b|\bSTR\b", page.replace("N|full", "N")), page
    if name in ("train", "fit", "serve"):
        assert not re.search(r"^options:$", page, re.MULTILINE) or name == "serve"


def test_help_has_the_presets_of_the_env(run: Run) -> None:
    page = " ".join(run("train", "--env", "ALE/Pong-v5", "--help").out.split())
    assert '(default: {"protocol": "dqn2015"})' in page
    assert "Steps that the replay holds; the oldest are overwritten (default: 1_000_000)" in page
    assert run("help", "train").out == run("train", "--help").out


def test_an_error_names_the_flags_of_the_command(run: Run) -> None:
    assert run("fit", "--net", "linear", "--weight-decay", "0.1", "--optimizer", "sgd").error == (
        "--weight-decay is adamw's; with --optimizer sgd use --l2 0.1"
    )


def test_in_flags() -> None:
    names = ("out", "resume", "batch_size", "steps", "optimizer")
    for text, expected in (
        ("add resume=True, or give another out=", "add --resume, or give another --out"),
        ("batch_size was 8; optimizer='sgd'", "--batch-size was 8; --optimizer sgd"),
        ("total_steps must be at least 1.", "--steps must be at least 1."),
        (
            "out of steps in /a/batch_size/b, 'batch_size', x.batch_size",
            "out of steps in /a/batch_size/b, 'batch_size', x.batch_size",
        ),
        ("gamma_max=3 and out=runs/a-1.", "gamma_max=3 and --out runs/a-1."),
    ):
        assert in_flags(text, names) == expected
