from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from torso.envs import load_wrapper, make_vector
from torso.errors import EnvError


class Paints(gym.Env[np.ndarray, np.int64]):
    """Renders the given frame."""

    def __init__(self, render_mode: str | None = None, frame: object = np.zeros((2, 3, 3), np.uint8)) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (1,))
        self.action_space = gym.spaces.Discrete(2)
        self.render_mode = render_mode
        self.frame = frame

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def render(self):
        return self.frame


# rendering


@pytest.mark.parametrize("env_id", ["CartPole-v1", "torso/Digits-v0", "FrozenLake-v1", "LunarLander-v3"])
def test_an_id_is_rendered_as_asked(env_id: str):
    vector = make_vector(env_id, 2, render_mode="rgb_array")
    vector.reset()
    frames = vector.render()
    assert len(frames) == 2
    for frame in frames:
        assert (frame.dtype, frame.ndim, frame.shape[2]) == (np.uint8, 3, 3)
        assert min(frame.shape[:2]) >= 200
    vector.close()


@pytest.mark.parametrize("source", [Paints, lambda render_mode: Paints(render_mode), lambda **given: Paints(**given)])
def test_what_takes_a_render_mode_is_given_it(source):
    for render_mode in ("rgb_array", "human"):
        vector = make_vector(source, 2, render_mode=render_mode)
        assert vector.render_mode == render_mode
        vector.close()


def test_the_mode_that_is_asked_for_beats_that_of_env_kwargs():
    for env_id in (Paints, "CartPole-v1"):
        vector = make_vector(env_id, env_kwargs={"render_mode": "rgb_array_list"}, render_mode="rgb_array")
        assert vector.render_mode == "rgb_array"
        vector.close()
    assert make_vector(Paints, env_kwargs={"render_mode": "rgb_array"}).render_mode == "rgb_array"


def test_what_has_its_render_mode_already_is_taken():
    for source in (Paints("rgb_array"), lambda: Paints("rgb_array")):
        vector = make_vector(source, render_mode="rgb_array")
        assert vector.render()[0].shape == (2, 3, 3)
        vector.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "torso/Identity-v0",
            "torso/Identity-v0 cannot be rendered as 'rgb_array'; it has no render modes",
        ),
        ("CartPole-v1", "CartPole-v1 cannot be rendered as 'ansi'; it has human, rgb_array"),
        (lambda: Paints(), "must have the render mode 'ansi', got None; construct it with render_mode='ansi'"),
        (Paints("rgb_array"), "must have the render mode 'ansi', got 'rgb_array'"),
    ],
)
def test_what_cannot_be_rendered_as_asked(source, message: str):
    with pytest.raises(EnvError, match=message):
        make_vector(source, render_mode="rgb_array" if source == "torso/Identity-v0" else "ansi")


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (None, "NoneType"),
        ("a picture", "str"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
    ],
)
def test_frames_of_another_kind_are_refused(frame: object, got: str):
    vector = make_vector(Paints, env_kwargs={"frame": frame}, render_mode="rgb_array")
    with pytest.raises(EnvError, match=rf"the env must render uint8 \[H, W, 3\], got {got}"):
        vector.render()
    vector.close()
    other = make_vector(Paints, env_kwargs={"frame": frame}, render_mode="ansi")
    assert other.render()[0] is frame
    other.close()


# wrappers by name


def test_a_wrapper_by_its_name():
    wrapper = load_wrapper("gymnasium.wrappers:TimeAwareObservation")
    assert wrapper is gym.wrappers.TimeAwareObservation
    vector = make_vector("CartPole-v1", wrappers=[wrapper])
    assert vector.single_observation_space.shape == (5,)
    vector.close()


def test_a_name_within_a_class_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_wrappers.py").write_text(
        "class Ours:\n    @staticmethod\n    def plain(env):\n        return env\nnumber = 3\nOurs.other = number\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = Paints()
    assert load_wrapper("my_wrappers:Ours.plain")(env) is env
    for name in ("number", "Ours.other"):
        with pytest.raises(EnvError, match=f"'my_wrappers:{name}' must be a class or function .*, got int"):
            load_wrapper(f"my_wrappers:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "TimeAwareObservation",
            "wrapper must be 'module:Name', such as 'gymnasium.wrappers:TimeAwareObservation', got 'TimeAware",
        ),
        ("", "wrapper must be 'module:Name', such as .*, got ''"),
        (":Name", "wrapper must be 'module:Name', such as .*, got ':Name'"),
        ("gymnasium.wrappers:", "wrapper must be 'module:Name', such as .*, got 'gymnasium.wrappers:'"),
        (
            "nowhere_at_all:Name",
            r"wrapper 'nowhere_at_all:Name': the module 'nowhere_at_all' could not be imported \(ModuleNotFoundError",
        ),
        ("..:Name", r"wrapper '..:Name': the module '..' could not be imported \("),
        (
            "gymnasium.wrappers:Nothing",
            r"wrapper 'gymnasium.wrappers:Nothing': 'gymnasium.wrappers' does not give 'Nothing' \(AttributeError",
        ),
        (
            "gymnasium.wrappers:Nothing(...)",
            r"wrapper 'gymnasium.wrappers:Nothing.*': 'gymnasium.wrappers' does not give 'Nothing\(...\)'",
        ),
    ],
)
def test_names_that_name_no_wrapper(name: str, message: str):
    with pytest.raises(EnvError, match=f"^{message}"):
        load_wrapper(name)
