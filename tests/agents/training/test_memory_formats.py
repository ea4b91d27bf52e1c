"""The memory format of a run: recorded, kept on resume, and the same learning in both formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from torso.agents import ClassifierConfig, DQNConfig, RegressorConfig, Training, World, fit_run, train_run
from torso.agents.optim import memory_formats
from torso.agents.replay.batches import Batch
from torso.agents.supervised.fit_trials import trial_fit, trial_rows
from torso.agents.supervised.learner import classifier_spec, regressor_spec
from torso.agents.value_based.learner import DQNLearner
from torso.agents.value_based.network import initial_network, q_network_spec
from torso.agents.value_based.update_trials import trial_update
from torso.envs import load_dataset
from torso.errors import ConfigError, RunError
from torso.nets import InputSpec, build_network
from torso.nets.modules.layers import MemoryFormat

CPU = torch.device("cpu")
WORLD = World(env="torso/Digits-v0")
CONFIG = DQNConfig(
    net="cnn",
    hidden=(8,),
    batch_size=8,
    min_replay_size=40,
    replay_capacity=200,
    target_update_period=20,
    evaluation_period=None,
    evaluation_episodes=1,
    checkpoint_period=60,
    precision="float32",
    device="cpu",
)
STEPS = 120
FRAMES = InputSpec(shape=(4, 44, 44), dtype="uint8", layout="chw", scale=1 / 255)
SCANS = load_dataset("digits")
FIT = ClassifierConfig(net="cnn", hidden=(8,), max_epochs=2, batch_size=256, precision="float32", device="cpu")


class KilledError(Exception):
    """Ends a run at once, as a kill does."""


def recorded(run: Path) -> dict[str, Any]:
    resolved: dict[str, Any] = json.loads((run / "config.json").read_text())["resolved"]
    return resolved


def rewrite(run: Path, memory_format: str | None, *, old: bool = False) -> None:
    """Change what a run recorded; ``old``: to what a version without the setting had."""
    config = json.loads((run / "config.json").read_text())
    config["resolved"].pop("memory_format", None)
    if memory_format is not None:
        config["resolved"]["memory_format"] = memory_format
    if old:
        del config["settings"]["memory_format"]
    (run / "config.json").write_text(json.dumps(config))


def train(path: Path, config: DQNConfig = CONFIG, *, resume: bool = False, kill_at: int | None = None) -> bytes:
    """Train, and return the weights that are left."""

    def on_event(event: Any) -> None:
        if kill_at is not None and event.total_steps >= kill_at:
            raise KilledError

    train_run(WORLD, config, total_steps=STEPS, seed=0, out=path, resume=resume, on_event=on_event)
    return (path / "model" / "weights.safetensors").read_bytes()


def fit(path: Path, config: ClassifierConfig = FIT, *, resume: bool = False, stop_after: int = 10**6) -> bytes:
    calls: list[None] = []

    def stop() -> bool:
        calls.append(None)
        return len(calls) == stop_after

    fit_run(SCANS, config, seed=0, out=path, resume=resume, stop=stop)
    return (path / "model" / "weights.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_formats, "_measured", {})


# -- trainings ---------------------------------------------------------------------------------------------------------


def frames_learner(memory_format: MemoryFormat, **settings: Any) -> DQNLearner:
    config = DQNConfig(net="nature", batch_size=8, **settings)
    network = initial_network(config, q_network_spec(config, FRAMES, 3), 0)
    return DQNLearner(config, network, device=CPU, precision="float32", memory_format=memory_format)


def frames_batch(rows: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(5)

    def frames() -> torch.Tensor:
        return torch.randint(256, (rows, *FRAMES.shape), generator=generator).to(torch.uint8)

    actions = torch.randint(3, (rows,), generator=generator)
    rewards, ones = torch.rand(rows, generator=generator), torch.ones(rows)
    return Batch(s_tm1=frames(), a_tm1=actions, r_t=rewards, discount_t=0.9 * ones, s_t=frames(), weight=ones)


@pytest.mark.parametrize("hidden", [(16,), (4500,)], ids=["flat parameters", "separate parameters"])
@pytest.mark.parametrize("algorithm", ["double", "rainbow", "munchausen"])
def test_updates_are_equal_in_both_formats(algorithm: str, hidden: tuple[int, ...]) -> None:
    made = {each: frames_learner(each, algorithm=algorithm, hidden=hidden) for each in memory_formats.MEMORY_FORMATS}
    assert (made["channels-last"].step.flat is None) == (hidden == (4500,))
    batch = frames_batch()
    losses = {each: float(learner.update(batch.rows(0, 8)).metrics["loss"]) for each, learner in made.items()}
    assert losses["channels-last"] == pytest.approx(losses["contiguous"], rel=1e-4)
    expected, other = (dict(made[each].online.named_parameters()) for each in memory_formats.MEMORY_FORMATS)
    for name, weight in expected.items():
        gradient, of_other = weight.grad, other[name].grad
        assert gradient is not None
        assert of_other is not None
        assert (of_other - gradient).norm() <= 1e-3 * gradient.norm(), name
    losses = {each: float(learner.update(batch.rows(8, 16)).metrics["loss"]) for each, learner in made.items()}
    assert losses["channels-last"] == pytest.approx(losses["contiguous"], rel=0.01)
    assert batch.s_tm1.is_contiguous()  # the caller's stays as it is


def test_acting_and_the_target_network_have_the_format() -> None:
    learner = frames_learner("channels-last")
    assert learner.online.memory_format == learner.target.memory_format == "channels-last"
    values, _ = learner.policy().values(frames_batch(1).s_t.numpy())
    expected, _ = frames_learner("contiguous").policy().values(frames_batch(1).s_t.numpy())
    assert torch.allclose(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", memory_formats.MEMORY_FORMATS)
def test_a_given_format_is_recorded_and_resumed_to_the_bit(memory_format: Any, tmp_path: Path) -> None:
    config = replace(CONFIG, memory_format=memory_format)
    whole = train(tmp_path / "whole", config)
    assert recorded(tmp_path / "whole")["memory_format"] == memory_format
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, kill_at=90)
    assert train(tmp_path / "killed", config, resume=True) == whole
    with pytest.raises(RunError, match="memory_format was"):
        train(tmp_path / "killed", CONFIG, resume=True)


def test_what_auto_chose_is_recorded_and_kept(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        train(tmp_path / "run", kill_at=90)
    assert recorded(tmp_path / "run")["memory_format"] in memory_formats.MEMORY_FORMATS
    assert len(memory_formats._measured) == 1
    memory_formats._measured.clear()
    for memory_format in memory_formats.MEMORY_FORMATS:  # as if it had been measured so
        rewrite(tmp_path / "run", memory_format)
        train(tmp_path / "run", resume=True)
        assert recorded(tmp_path / "run")["memory_format"] == memory_format
    assert not memory_formats._measured


def test_a_training_of_before_goes_on_contiguous(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", replace(CONFIG, memory_format="contiguous"))
    with pytest.raises(KilledError):
        train(tmp_path / "old", replace(CONFIG, memory_format="contiguous"), kill_at=90)
    rewrite(tmp_path / "old", None, old=True)
    assert train(tmp_path / "old", resume=True) == whole
    assert "memory_format" not in recorded(tmp_path / "old")


def test_a_training_in_memory_gives_the_bits_of_a_run(tmp_path: Path) -> None:
    weights = train(tmp_path / "run")
    training = Training(WORLD, CONFIG, seed=0)
    for _ in training.run(STEPS):
        pass
    training.save(tmp_path / "model", best=False, onnx=False)
    assert (tmp_path / "model" / "weights.safetensors").read_bytes() == weights


def test_without_convolutions_nothing_is_recorded(tmp_path: Path) -> None:
    train(tmp_path / "run", replace(CONFIG, net="mlp"))
    assert "memory_format" not in recorded(tmp_path / "run")
    with pytest.raises(ConfigError, match="for a network without convolutions"):
        train(tmp_path / "refused", replace(CONFIG, net="mlp", memory_format="channels-last"))
    assert not (tmp_path / "refused").exists()


# -- fits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory_format", memory_formats.MEMORY_FORMATS)
def test_a_fit_is_resumed_to_the_bit(memory_format: Any, tmp_path: Path) -> None:
    config = replace(FIT, memory_format=memory_format)
    whole = fit(tmp_path / "whole", config)
    assert recorded(tmp_path / "whole")["memory_format"] == memory_format
    fit(tmp_path / "stopped", config, stop_after=5)
    assert fit(tmp_path / "stopped", config, resume=True) == whole


def test_what_auto_chose_for_a_fit_is_recorded_and_kept(tmp_path: Path) -> None:
    fit(tmp_path / "run", stop_after=3)
    chosen = recorded(tmp_path / "run")["memory_format"]
    [other] = set(memory_formats.MEMORY_FORMATS) - {chosen}
    rewrite(tmp_path / "run", other)  # as if it had been measured so
    memory_formats._measured.clear()
    fit(tmp_path / "run", resume=True)
    assert recorded(tmp_path / "run")["memory_format"] == other
    assert not memory_formats._measured


def test_a_fit_of_before_goes_on_as_it_did(tmp_path: Path) -> None:
    """Fits of torso's convolutional nets had their weights channels-last before there was a setting."""
    whole = fit(tmp_path / "whole", replace(FIT, memory_format="channels-last"))
    fit(tmp_path / "old", replace(FIT, memory_format="channels-last"), stop_after=5)
    rewrite(tmp_path / "old", None, old=True)
    assert fit(tmp_path / "old", resume=True) == whole


def test_a_fit_without_convolutions_records_nothing(tmp_path: Path) -> None:
    fit(tmp_path / "run", replace(FIT, net="mlp"))
    assert "memory_format" not in recorded(tmp_path / "run")
    with pytest.raises(ConfigError, match="for a network without convolutions"):
        fit(tmp_path / "refused", replace(FIT, net="mlp", memory_format="channels-last"))
    assert not (tmp_path / "refused").exists()


# -- trials ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["dqn", "rainbow", "m-iqn"])
def test_a_trial_updates_a_copy(algorithm: str) -> None:
    config = DQNConfig(algorithm=algorithm, net="nature", hidden=(16,), batch_size=8)
    network = initial_network(config, q_network_spec(config, FRAMES, 3), 0)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    run = trial_update(config, network, "channels-last", device=CPU, precision="float32")
    run(4)
    run(8)
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert network.memory_format == "contiguous"


@pytest.mark.parametrize("batch_size", [16, "full"])
def test_a_trial_fits_a_copy(batch_size: Any) -> None:
    image = InputSpec(shape=(8, 8), dtype="uint8", layout="hw", scale=1 / 16)
    for config, spec in (
        (ClassifierConfig(net="cnn", batch_size=batch_size), classifier_spec(ClassifierConfig(net="cnn"), image, 10)),
        (RegressorConfig(net="cnn"), regressor_spec(RegressorConfig(net="cnn"), image, (0.0, 1.0), (1.0, 2.0))),
    ):
        network, recipe = build_network(spec, torch.Generator()), config.recipe()
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        run = trial_fit(config, recipe, network, "channels-last", device=CPU, precision="float32")
        run(4)
        run(trial_rows(recipe))
        assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
