"""A registered torso as an agent's and a classifier's net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torso.agents import DQN, Classifier, ClassifierConfig, DQNConfig
from torso.errors import ConfigError
from torso.nets import register_torso


@dataclass(frozen=True, kw_only=True)
class SumSpec:
    activation: str = "relu"


@dataclass(frozen=True, kw_only=True)
class PixelsSpec:
    takes_images: ClassVar[bool] = True


class SumTorso(nn.Module):
    """The inputs, and their sum."""

    def __init__(self, spec: Any, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.num_features = int(np.prod(input_shape)) + 1

    def forward(self, inputs: Tensor, state: Any, generator: torch.Generator | None) -> Any:
        inputs = inputs.flatten(1)
        return torch.cat([inputs, inputs.sum(dim=1, keepdim=True)], dim=1), state


@pytest.fixture(autouse=True)
def registered(registries: None) -> None:
    register_torso("sum-of-a-test", SumSpec, SumTorso)
    register_torso("pixels-of-a-test", PixelsSpec, SumTorso)


def test_a_registered_torso_takes_the_settings_that_it_has_fields_for() -> None:
    config = DQNConfig(hidden=(32, 32), min_replay_size=20, evaluation_episodes=1)
    agent = DQN("CartPole-v1", config=config, net="sum-of-a-test", activation="tanh")
    assert agent.learn(60).predict([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    assert agent._training.session.learner.online.spec.torso == SumSpec(activation="tanh")


def test_a_kind_of_layer_norm_needs_a_field_too() -> None:
    with pytest.raises(ConfigError, match=r"^layer_norm_kind must be left out for net 'sum-of-a-test'"):
        DQN(
            "CartPole-v1",
            net="sum-of-a-test",
            config=DQNConfig(layer_norm=True, min_replay_size=20),
            layer_norm_kind="channels",
        )
    with pytest.raises(ConfigError, match="has no setting layer_norm, layer_norm_kind; leave it out"):
        Classifier(net="sum-of-a-test", layer_norm=True, layer_norm_kind="channels").fit(
            [[0.0], [1.0]] * 10, [0, 1] * 10
        )


@pytest.mark.parametrize("setting", [{"hidden": (7,)}, {"layer_norm": True}])
def test_other_settings_are_refused(setting: dict[str, Any]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError, match=f"^{name} must be left out for net 'sum-of-a-test'") as error:
        DQN("CartPole-v1", net="sum-of-a-test", **setting)
    assert str(error.value).endswith(f"got {value!r}")
    with pytest.raises(ConfigError, match=f"net 'sum-of-a-test' has no setting {name}; leave it out"):
        Classifier(net="sum-of-a-test", **setting).fit([[0.0, 1.0], [1.0, 0.0]] * 10, [0, 1] * 10)


def test_dueling_streams_take_the_width() -> None:
    config = DQNConfig(dueling=True, num_envs=1, min_replay_size=20, evaluation_episodes=1)
    with pytest.raises(ConfigError, match="hidden must be left out"):  # there is no layer for the 9
        DQN("CartPole-v1", config=config, net="sum-of-a-test", hidden=(9, 7))
    agent = DQN("CartPole-v1", config=config, net="sum-of-a-test", hidden=(7,))
    assert agent.learn(60)._training.session.learner.online.spec.head.hidden == (7,)


def test_rows_of_pixels_are_images_for_a_specification_that_says_so() -> None:
    pixels, labels = np.random.default_rng(0).random((20, 16), dtype=np.float32), [0, 1] * 10
    for net, shape in (("sum-of-a-test", (16,)), ("pixels-of-a-test", (1, 4, 4))):
        model = Classifier(net=net, max_epochs=1, random_state=0).fit(pixels, labels)
        assert model.network_.torso.input_shape == shape
    with pytest.raises(ConfigError, match="for images, which net='sum-of-a-test' does not take"):
        ClassifierConfig(net="sum-of-a-test", max_shift_px=1)
    assert ClassifierConfig(net="pixels-of-a-test", max_shift_px=1).convolutional
