from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torso.errors import ConfigError, ServerError, UnavailableError, UnknownModelError, WrongKindError
from torso.nets import InputSpec, MLPSpec, NetworkSpec, RegressionHeadSpec, build_network, save_model
from torso.serve import ServeConfig
from torso.serve.metrics import Metrics
from torso.serve.repository import Repository, parse_models


def loaded(config: ServeConfig) -> Repository:
    repository = Repository(config, Metrics())
    repository.load_all()
    return repository


@pytest.fixture
def damaged(models: Any, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(models.cartpole, tmp_path / "damaged"))
    weights = directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    return directory


def test_names_come_from_directories_or_are_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_models(["runs/digits", "pole=runs/cartpole/best", ".", "best=lr=0.1", "lr=0.5"]) == {
        "digits": Path("runs/digits"),
        "pole": Path("runs/cartpole/best"),
        tmp_path.name: Path(),
        "best": Path("lr=0.1"),
        "lr": Path("0.5"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/digits", "b/digits"], "two models are named 'digits': a/digits and b/digits"),
        (["x=a", "x=b"], "two models are named 'x'"),
        (["runs/my model"], "model name 'my model': expected letters"),
    ],
)
def test_bad_names_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ServerError, match=message):
        parse_models(arguments)


def test_a_missing_model_is_named(config: Callable[..., ServeConfig], models: Any, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"model 'gone' \(.*gone\): no model at .*no such directory"):
        loaded(config(models.cartpole, tmp_path / "gone"))


def test_a_damaged_model_is_named(config: Callable[..., ServeConfig], damaged: Path) -> None:
    with pytest.raises(ServerError, match=r"model 'damaged' \(.*\): .*weights.safetensors is truncated or altered"):
        loaded(config(damaged))


def test_a_model_of_a_newer_torso_is_named(config: Callable[..., ServeConfig], models: Any, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(models.cartpole, tmp_path / "newer"))
    card = json.loads((directory / "model.json").read_text())
    (directory / "model.json").write_text(json.dumps({**card, "format_version": 99}))
    with pytest.raises(ServerError, match="format 99"):
        loaded(config(directory))


def test_broken_models_can_be_skipped_while_one_is_left(
    config: Callable[..., ServeConfig], models: Any, damaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        repository = loaded(config(damaged, models.cartpole, tmp_path / "gone", skip_broken=True))
    assert list(repository.models) == ["cartpole"]
    assert "model 'damaged'" in caplog.text
    assert "model 'gone'" in caplog.text
    with pytest.raises(UnknownModelError, match="unknown model 'damaged': served are cartpole"):
        repository.get("damaged")
    repository.close()
    with pytest.raises(ServerError, match="none of the 2 models could be loaded"):
        loaded(config(damaged, tmp_path / "gone", skip_broken=True))


def test_a_regressor_is_refused(config: Callable[..., ServeConfig], models: Any, tmp_path: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(), head=RegressionHeadSpec(num_targets=2))
    directory = save_model(tmp_path / "diabetes", build_network(spec), kind="regressor", onnx=False)
    message = r"model 'diabetes' \(.*\): a regressor cannot be served; .*torso\.nets\.Predictor, the service labels and"
    with pytest.raises(ServerError, match=message):
        loaded(config(directory))
    repository = loaded(config(directory, models.cartpole, skip_broken=True))
    assert list(repository.models) == ["cartpole"]
    repository.close()


def test_a_run_directory_serves_its_best_model(config: Callable[..., ServeConfig], models: Any, tmp_path: Path) -> None:
    shutil.copytree(models.cartpole, tmp_path / "run" / "model")
    shutil.copytree(models.cartpole, tmp_path / "run" / "best")
    repository = loaded(config(tmp_path / "run"))
    assert repository.get("run").directory == tmp_path / "run" / "best"
    repository.close()


def test_models_are_found_by_name_version_and_kind(config: Callable[..., ServeConfig]) -> None:
    repository = Repository(config(), Metrics())
    with pytest.raises(UnavailableError, match="'digits' is loading") as caught:
        repository.get("digits")
    assert caught.value.retry_after_s is not None
    repository.load_all()
    assert list(repository.models) == ["cartpole", "digits"]
    assert repository.get("digits") is repository.get("digits", "1")
    with pytest.raises(UnknownModelError, match="unknown version '2' of model 'digits': it has '1'"):
        repository.get("digits", "2")
    with pytest.raises(UnknownModelError, match="unknown model '': served are cartpole, digits"):
        repository.get("")
    assert repository.get("digits").require("classifier").name == "digits"
    with pytest.raises(WrongKindError, match="'digits' is a classifier, not a policy: ask it with Classify"):
        repository.get("digits").require("policy")
    repository.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ()}, "models: expected at least one"),
        ({"port": -1}, "port: expected 0 to 65535, got -1"),
        ({"port": 65536}, "port"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"max_batch_rows": 0}, "max_batch_rows: expected at least 1, got 0"),
        ({"max_queue_rows": 0}, "max_queue_rows"),
        ({"max_message_mib": 0}, "max_message_mib"),
        ({"max_message_mib": 4096}, "max_message_mib: expected at most 2047"),
        ({"finish_s": -1.0}, "finish_s"),
        ({"tls_cert": Path("c")}, "tls_cert and tls_key go together"),
        ({"backend": "gpu"}, "backend: expected auto, onnx, torch or cuda, got 'gpu'"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig(**{"models": ("m",), **settings})


def test_a_directory_with_an_equals_sign_is_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    with pytest.raises(ServerError, match=r"model name 'lr=0\.1'"):
        parse_models(["lr=0.1"])
