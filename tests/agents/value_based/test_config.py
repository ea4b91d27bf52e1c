"""Settings are checked where they are given: numbers of any library are numbers, and nothing else is."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torso.agents import DQN, ClassifierConfig, DQNConfig, World, train_run
from torso.agents.value_based.config import upgrade_settings
from torso.agents.value_based.network import initial_network, q_network_spec
from torso.errors import ConfigError
from torso.nets import InputSpec, MLPSpec, build_network
from torso.nets.modules.layers import ChannelLayerNorm


def test_numbers_of_other_libraries_become_plain_data(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "batch_size": np.int64(16),
        "gamma": np.float32(0.5),
        "learning_rate": np.float64(1e-3),
        "hidden": np.array([8, 4]),
        "double": np.bool_(True),
        "stop_return": 7,
        "init_torso": None,
        "max_grad_norm": None,
    }
    config = DQNConfig(**given)
    assert config == DQNConfig(
        batch_size=16, gamma=0.5, learning_rate=1e-3, hidden=(8, 4), double=True, stop_return=7.0, max_grad_norm=None
    )
    assert json.loads(json.dumps(asdict(config)))["hidden"] == [8, 4]
    types = {type(value) for value in asdict(config).values()}
    assert types == {str, int, float, bool, tuple, type(None)}
    assert DQN("torso/Identity-v0", **{**given, "hidden": [8, 4], "min_replay_size": 20}).config.gamma == 0.5


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"double": "no"}, "double must be True or False, got 'no'"),
        ({"layer_norm": 1}, "layer_norm must be True or False, got 1"),
        ({"layer_norm_kind": "pixel"}, "layer_norm_kind must be one of image, channels, elements; got 'pixel'"),
        ({"layer_norm_kind": True}, "layer_norm_kind must be one of image, channels, elements; got True"),
        ({"init": "glorot"}, "init must be one of default, zeros, normal, xavier, he, orthogonal; got 'glorot'"),
        ({"clip_rewards": None}, "clip_rewards must be True or False, got None"),
        ({"stop_return": math.inf}, "stop_return must be a finite number, got inf"),
        ({"stop_return": math.nan}, "stop_return must be a finite number, got nan"),
        ({"gamma": "0.9"}, "gamma must be a finite number, got '0.9'"),
        ({"gamma": True}, "gamma must be a finite number, got True"),
        ({"epsilon_end": 1.5}, r"epsilon_end must lie in [0, 1], got 1.5"),
        ({"batch_size": 8.0}, "batch_size must be a whole number of at least 1, got 8.0"),
        ({"num_envs": True}, "num_envs must be a whole number of at least 1, got True"),
        ({"hidden": 8}, "hidden must be a tuple, got 8"),
        ({"hidden": (8, 0)}, "each of hidden must be a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"huber_delta": "1"}, "huber_delta must be a finite number, got '1'"),
        ({"device": 0}, "device must be text, got 0"),
        ({"net": None}, "net must be text, got None"),
        ({"precision": "float16"}, "precision must be one of auto, float32, bfloat16; got 'float16'"),
        ({"init_torso": 3}, "init_torso must be a path, got 3"),
        ({"noisy": 1}, "noisy must be True or False, got 1"),
        ({"noisy_std": 0.0}, "noisy_std must be positive, got 0.0"),
        ({"num_atoms": 1}, "num_atoms must be a whole number of at least 2, got 1"),
        ({"v_min": "low"}, "v_min must be a finite number, got 'low'"),
        ({"v_max": math.inf}, "v_max must be a finite number, got inf"),
        ({"num_quantiles": 0}, "num_quantiles must be a whole number of at least 1, got 0"),
        ({"num_fractions": 1.5}, "num_fractions must be a whole number of at least 1, got 1.5"),
        ({"num_cosines": -1}, "num_cosines must be a whole number of at least 1, got -1"),
        ({"munchausen_tau": 0.0}, "munchausen_tau must be positive, got 0.0"),
        ({"munchausen_alpha": 1.5}, "munchausen_alpha must lie in [0, 1], got 1.5"),
        ({"munchausen_clip": 1.0}, "munchausen_clip must be at most 0, got 1.0"),
        ({"munchausen_network": "both"}, "munchausen_network must be one of target, online; got 'both'"),
        ({"exploration": 3}, "exploration must be text, got 3"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"ladder_epsilon": 1.5}, "ladder_epsilon must lie in [0, 1], got 1.5"),
        ({"ladder_alpha": -1.0}, "ladder_alpha must be at least 0, got -1.0"),
        ({"checkpoint_period": 0}, "checkpoint_period must be a whole number of at least 1, got 0"),
    ],
)
def test_what_is_no_such_value_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        DQNConfig(**setting)
    assert str(error.value) == message
    with pytest.raises(ConfigError) as error:
        DQN("torso/Identity-v0", **setting)
    assert str(error.value) == message


def test_the_kind_of_layer_norm_is_the_networks() -> None:
    config = DQNConfig(net="minatar", layer_norm=True, layer_norm_kind="channels")
    images, vector = InputSpec(shape=(4, 10, 10), layout="chw"), InputSpec(shape=(4,))
    spec = q_network_spec(config, images, 3)
    assert spec.torso.layer_norm_kind == "channels"
    assert isinstance(initial_network(config, spec, seed=0).torso.convs[1], ChannelLayerNorm)
    assert q_network_spec(replace(config, net="mlp"), vector, 3).torso == MLPSpec(hidden=(128, 128), layer_norm=True)
    assert not q_network_spec(replace(config, layer_norm=False), images, 3).torso.layer_norm


def test_the_initial_weights_are_drawn_as_init_says() -> None:
    config = DQNConfig(net="minatar", init="he", hidden=(512,))
    spec = q_network_spec(config, InputSpec(shape=(4, 10, 10), layout="chw"), 3)
    network = initial_network(config, spec, seed=5)
    weights = {name: weight.detach() for name, weight in network.named_parameters() if weight.dim() > 1}
    assert len(weights) == 3
    for name, weight in weights.items():
        std = math.sqrt(2 / weight[0].numel())  # He et al. 2015, eq. 10
        assert float(weight.std()) == pytest.approx(std, rel=5 / math.sqrt(weight.numel())), name
    again, other = (initial_network(config, spec, seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(again[name], weight) for name, weight in network.state_dict().items())
    assert not torch.equal(other["head.linear.weight"], again["head.linear.weight"])
    plain = initial_network(replace(config, init="default"), spec, seed=5).state_dict()
    expected = build_network(spec, torch.Generator().manual_seed(5)).state_dict()
    assert all(torch.equal(plain[name], weight) for name, weight in expected.items())


def test_a_kind_of_layer_norm_is_for_a_layer_norm() -> None:
    message = "layer_norm_kind must be left out without layer_norm, got 'channels'"
    with pytest.raises(ConfigError) as error:
        DQN("torso/Identity-v0", layer_norm_kind="channels")
    assert str(error.value) == message
    assert DQN("torso/Identity-v0", layer_norm_kind="channels", layer_norm=True).config.layer_norm_kind == "channels"


def test_settings_of_before_there_were_kinds_are_of_the_image() -> None:
    recorded = {**asdict(DQNConfig(layer_norm=True))}
    del recorded["layer_norm_kind"], recorded["init"]
    assert upgrade_settings(recorded) == asdict(DQNConfig(layer_norm=True, layer_norm_kind="image", init="default"))


def test_large_periods_mean_never() -> None:
    assert DQNConfig(log_period=10**12).log_period == 10**12


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layer_norm": "no"}, "layer_norm must be True or False, got 'no'"),
        ({"layer_norm_kind": "pixel"}, "layer_norm_kind must be one of image, channels, elements; got 'pixel'"),
        (
            {"layer_norm_kind": "elements"},
            "layer_norm_kind must be left out without layer_norm, got 'elements'; give layer_norm=True",
        ),
        ({"batch_norm": "yes"}, "batch_norm must be True or False, got 'yes'"),
        ({"freeze_torso": 1}, "freeze_torso must be True or False, got 1"),
        ({"label_smoothing": "x"}, "label_smoothing must be a finite number, got 'x'"),
    ],
)
def test_a_fits_settings_are_checked_alike(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ClassifierConfig(**setting)
    assert str(error.value) == message


def test_arguments_of_an_env_that_cannot_be_saved_are_refused_before_learning(tmp_path: Path) -> None:
    for kwargs, message in (
        ({1: 2}, r"env_kwargs must be plain data, got {1: 2} \(env_kwargs must have strings"),
        ({"a": object()}, "env_kwargs must be plain data"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}"):
            DQN("torso/Identity-v0", env_kwargs=kwargs)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"^{message}"):
            train_run(
                World(env="torso/Identity-v0", env_kwargs=kwargs),  # type: ignore[arg-type]
                DQNConfig(),
                total_steps=10,
                seed=0,
                out=tmp_path / "run",
            )
    assert not (tmp_path / "run").exists()
