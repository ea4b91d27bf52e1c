"""The rule by which envs' observations and classifiers' inputs are read: the same for both."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from torso.agents import DQN, Classifier, DQNConfig
from torso.agents.supervised.augmentation import Augmentation, augmented
from torso.agents.supervised.inputs import input_spec_of
from torso.agents.training.train_runs import config_of
from torso.agents.value_based.network import input_spec
from torso.envs import observation_layout, observation_scale
from torso.envs.vector.world import World
from torso.errors import ConfigError
from torso.insight.pictures.input_pictures import channels_last
from torso.nets import InputSpec
from torso.nets.modules.layers import InputScaling
from torso.nets.specs.torsos import ConvNetSpec, MLPSpec

UNBOUNDED = (-np.inf, np.inf)
ARRAYS: list[tuple[tuple[int, ...], type, tuple[float, float], str | None]] = [
    ((8, 3), np.float32, UNBOUNDED, None),  # a window of readings
    ((8, 3), np.float32, (0, 1), None),
    ((30, 8), np.float32, (-1, 1), None),
    ((8, 8), np.float32, (-1, 1), None),
    ((8, 8), np.uint8, (0, 16), "hw"),
    ((84, 84), np.float32, (0, 1), "hw"),
    ((4, 128), np.uint8, (0, 255), None),  # stacked memories
    ((3, 3, 3), np.uint8, (0, 255), "hwc"),
    ((3, 3, 3), np.float32, (0, 1), "hwc"),
    ((17, 9, 9), np.float32, (0, 1), "chw"),  # planes of a board
    ((9, 9, 17), np.uint8, (0, 1), "hwc"),
    ((1, 28, 28), np.uint8, (0, 255), "chw"),
    ((28, 28, 1), np.uint8, (0, 255), "hwc"),
    ((3, 210, 160), np.uint8, (0, 255), "chw"),
    ((210, 160, 3), np.uint8, (0, 255), "hwc"),
    ((4, 84, 84, 3), np.uint8, (0, 255), "thwc"),
    ((4, 3, 84, 84), np.uint8, (0, 255), "tchw"),
    ((2, 2, 2, 2, 2), np.uint8, (0, 255), None),
]


class Sees(gym.Env[Any, Any]):
    """Env that shows random values of a space."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape: tuple[int, ...], dtype: type = np.uint8, low: float = 0, high: float = 255) -> None:
        self.observation_space = spaces.Box(low, high, shape, dtype)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._shown(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self._shown(), 1.0, bool(self.np_random.random() < 0.2), False, {}

    def _shown(self) -> Any:
        return self.np_random.integers(0, 2, self.observation_space.shape).astype(self.observation_space.dtype)


@pytest.mark.parametrize(("shape", "dtype", "bounds", "layout"), ARRAYS)
def test_observations_and_arrays_are_read_alike(shape: Any, dtype: Any, bounds: Any, layout: str | None) -> None:
    assert observation_layout(spaces.Box(*bounds, shape, dtype))[2] == layout
    if len(shape) > 4:
        return
    rng = np.random.default_rng(0)
    low, high = (-5, 5) if bounds == UNBOUNDED else bounds
    inputs = (rng.random((50, *shape)) * (high - low) + low).astype(dtype)
    inputs[0], inputs[1] = low, high
    spec = input_spec_of(inputs, convolutional=False)
    assert spec.layout == layout
    assert (spec.mean is None) == (layout is not None)  # rows are standardised, images scaled


def test_stacked_vectors_are_vectors() -> None:
    for env_id in ("CartPole-v1", "Acrobot-v1"):
        for size in (4, 6, 8):
            world = World(env=lambda: gym.wrappers.FrameStackObservation(gym.make(env_id), size))  # noqa: B023
            assert (world.spec.layout, world.spec.scale) == (None, 1.0)
            assert input_spec(world.spec, DQNConfig(normalise_observations=True)).layout is None


def test_three_axes_without_bounds_are_an_image_where_they_are_square() -> None:
    assert observation_layout(spaces.Box(*UNBOUNDED, (17, 9, 9), np.float32))[2] == "chw"
    assert observation_layout(spaces.Box(*UNBOUNDED, (4, 30, 8), np.float32))[2] is None
    low = np.zeros((3, 8, 8), np.float32)
    assert observation_layout(spaces.Box(low, low + np.arange(1, 9, dtype=np.float32)))[2] == "chw"


@pytest.mark.parametrize(
    ("bounds", "dtype", "scale"),
    [
        ((0, 255), np.uint8, 1 / 255),
        ((0, 255), np.float32, 1 / 255),
        ((0, 1), np.float32, 1.0),
        ((-1, 1), np.float32, 1.0),
        ((-128, 127), np.int8, 1 / 128),
        ((0, 65_535), np.uint16, 1 / 65_535),
        ((0, 2**31 - 1), np.int32, 1.0),  # no bound, but the dtype's end
        (UNBOUNDED, np.float32, 1.0),
        ((0, 0), np.uint8, 1.0),
    ],
)
def test_images_are_scaled_by_the_bounds_of_their_space(bounds: Any, dtype: Any, scale: float) -> None:
    assert observation_scale(spaces.Box(*bounds, (3, 12, 12), dtype)) == scale


@pytest.mark.parametrize(
    ("shape", "torso", "channels"),
    [
        ((84, 84, 3), ConvNetSpec, 3),
        ((4, 36, 40, 3), ConvNetSpec, 12),
        ((7, 7, 3), ConvNetSpec, 3),
        ((3, 3, 3), ConvNetSpec, 3),
        ((8, 3), MLPSpec, None),
    ],
)
def test_images_get_a_convolutional_network_by_default(
    shape: tuple[int, ...], torso: type, channels: int | None
) -> None:
    spec = DQN(lambda: Sees(shape))._built.spec  # type: ignore[union-attr]
    assert isinstance(spec.torso, torso)
    assert channels is None or spec.input.tensor_shape[0] == channels
    assert spec.input.scale == (1.0 if channels is None else 1 / 255)
    flat = DQN(lambda: Sees(shape), net="mlp")._built.spec  # type: ignore[union-attr]
    assert isinstance(flat.torso, MLPSpec)


def test_a_layout_overrides_the_rule() -> None:
    window = World(env=Sees, env_kwargs={"shape": (8, 3)}).spec
    assert input_spec(window, DQNConfig(layout="hw")).tensor_shape == (1, 8, 3)
    assert input_spec(window, DQNConfig(layout="hw")).scale == 1 / 255
    assert input_spec(window, DQNConfig(net="cnn")).layout == "hw"  # which takes images alone
    planes = World(env=Sees, env_kwargs={"shape": (6, 9, 9)}).spec
    assert input_spec(planes, DQNConfig(layout="hwc")).tensor_shape == (9, 6, 9)
    flat = input_spec(planes, DQNConfig(layout="flat"))
    assert (flat.layout, flat.scale, flat.tensor_shape) == (None, 1.0, (486,))
    with pytest.raises(ConfigError, match=r"layout must be one for inputs of shape \[8, 3\], got 'hwc', which has 3"):
        input_spec(window, DQNConfig(layout="hwc"))
    with pytest.raises(ConfigError, match=r"layout must be one of hw, chw, hwc, tchw, thwc, flat"):
        DQNConfig(layout="nhwc")

    images = np.zeros((9, 6, 9, 9), np.uint8)
    assert input_spec_of(images, convolutional=False, layout="hwc").tensor_shape == (9, 6, 9)
    assert (
        input_spec_of(images + np.arange(9)[:, None, None, None], convolutional=False, layout="flat").mean is not None
    )
    with pytest.raises(ConfigError, match="layout"):
        Classifier(layout="wh").fit(images, np.arange(9) % 2)


def test_normalisation_is_refused_for_images_with_the_setting_that_allows_it() -> None:
    with pytest.raises(ConfigError, match=r"read as an image \(height, width, channels\).*layout='flat'"):
        DQN(lambda: Sees((9, 9, 3)), normalise_observations=True)
    agent = DQN(lambda: Sees((9, 9, 3)), normalise_observations=True, layout="flat")
    assert agent._built is not None
    assert agent._built.spec.input.tensor_shape == (243,)


@pytest.mark.parametrize(("layout", "shape"), [("tchw", (2, 3, 5, 4)), ("thwc", (2, 5, 4, 3))])
def test_the_channels_of_a_stack_follow_one_another(layout: Any, shape: tuple[int, ...]) -> None:
    spec = InputSpec(shape=shape, dtype="uint8", layout=layout, scale=1 / 255)
    assert spec.tensor_shape == (6, 5, 4)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (7, 2, 3, 5, 4), dtype=np.uint8)  # [N, T, C, H, W]
    raw = images if layout == "tchw" else images.transpose(0, 1, 3, 4, 2)
    expected = images.reshape(7, 6, 5, 4)
    scaled = InputScaling(spec)(torch.from_numpy(raw.copy()))
    np.testing.assert_allclose(scaled.numpy(), expected / np.float32(255), rtol=1e-6)
    np.testing.assert_array_equal(channels_last(raw, spec), expected.transpose(0, 2, 3, 1))
    moved = augmented(
        torch.from_numpy(raw.copy()), Augmentation(max_shift_px=1), layout, torch.Generator().manual_seed(2)
    )
    as_planes = augmented(
        torch.from_numpy(expected.copy()), Augmentation(max_shift_px=1), "chw", torch.Generator().manual_seed(2)
    )
    moved = moved if layout == "tchw" else moved.permute(0, 1, 4, 2, 3)
    assert torch.equal(moved.reshape(7, 6, 5, 4), as_planes)


def test_an_agent_of_stacked_colour_images_learns_saves_and_loads(tmp_path: Any) -> None:
    agent = DQN(lambda: Sees((2, 9, 9, 3)), min_replay_size=50, batch_size=8, hidden=(8,), evaluation_period=None)
    agent.learn(100)
    agent.save(tmp_path / "model")
    loaded = DQN.load(tmp_path / "model", lambda: Sees((2, 9, 9, 3)))
    obs = np.random.default_rng(0).integers(0, 2, (5, 2, 9, 9, 3)).astype(np.uint8)
    np.testing.assert_array_equal(agent.predict(obs), loaded.predict(obs))
    assert loaded._loaded is not None
    assert loaded._loaded[1].spec.input.layout == "thwc"


def test_runs_that_recorded_no_layout_keep_the_rule_of_then() -> None:
    old = config_of({"algorithm": "dqn", "head": "scalar", "net": "mlp"})
    for shape, dtype, layout, scale in (
        ((8, 3), np.float32, "hw", 1.0),
        ((17, 9, 9), np.float32, "hwc", 1.0),
        ((4, 9, 9), np.uint8, "chw", 1 / 255),
        ((4, 9, 9, 3), np.uint8, None, 1.0),
    ):
        spec = input_spec(World(env=lambda: Sees(shape, dtype)).spec, old)  # noqa: B023
        assert (spec.layout, spec.scale) == (layout, scale)
