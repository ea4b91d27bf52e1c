"""Episode state of a stream, against the preprocessing and the predictor that local play uses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from torso.errors import InputError, OverloadedError, WrongKindError
from torso.image_spec import ATARI_STACK
from torso.nets import InputSpec, Predictor
from torso.nets.prediction.atari_frames import SIZE, STACK, preprocess, stack
from torso.serve.client.results import ModelInfo, TensorSpec
from torso.serve.services.callers import NOBODY, Caller
from torso.serve.services.episodes import EPISODE_BYTES, EpisodeRoom, Episodes, ServedEpisode, episode_bytes

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def frames_model(models: Any) -> Predictor:
    return Predictor.load(models.frames)


@pytest.fixture(scope="module")
def cartpole(models: Any) -> Predictor:
    return Predictor.load(models.cartpole)


def step(episode: ServedEpisode, predictor: Predictor, observation: Array, epsilon: float = 0.0) -> tuple[Array, int]:
    prepared = episode.prepare(predictor, observation)
    return prepared, episode.advance(predictor, prepared, predictor.run(prepared), epsilon)


def holding(most: int) -> Episodes:
    return Episodes(most, EpisodeRoom(1 << 20), NOBODY)


def noise(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


# frames


def test_frames_raw_and_made_join_the_stack_as_local_play_stacks_them(frames_model: Predictor) -> None:
    episode, expected = ServedEpisode(), None
    for index in range(7):
        raw = noise(index, 2, 210, 160, 3)
        plane = preprocess(raw)
        expected = stack(expected, plane)
        prepared, action = step(episode, frames_model, plane if index % 3 == 1 else raw)
        np.testing.assert_array_equal(prepared, expected[np.newaxis])
        assert prepared.dtype == np.uint8
        assert [action] == frames_model.act(expected)[0].tolist()


def test_a_whole_observation_takes_the_stacks_place(frames_model: Predictor) -> None:
    episode = ServedEpisode()
    step(episode, frames_model, noise(0, 84, 84))
    whole, plane = noise(1, *ATARI_STACK), noise(2, 84, 84)
    np.testing.assert_array_equal(step(episode, frames_model, whole)[0], whole[np.newaxis])
    np.testing.assert_array_equal(step(episode, frames_model, plane)[0][0], [*whole[1:], plane])


def test_preparing_alone_changes_nothing(frames_model: Predictor) -> None:
    episode = ServedEpisode()
    step(episode, frames_model, noise(0, 84, 84))
    first = episode.prepare(frames_model, noise(1, 84, 84))
    np.testing.assert_array_equal(episode.prepare(frames_model, noise(1, 84, 84)), first)
    with pytest.raises(InputError):
        episode.prepare(frames_model, noise(1, 83, 84))
    np.testing.assert_array_equal(step(episode, frames_model, noise(1, 84, 84))[0], first)


@pytest.mark.parametrize(
    ("observation", "got"),
    [
        (np.zeros((3, 84, 84), np.uint8), r"uint8 \[3, 84, 84\]"),
        (np.zeros((1, 4, 84, 84), np.uint8), r"uint8 \[1, 4, 84, 84\]"),
        (np.zeros((210, 160, 3), np.uint8), r"uint8 \[210, 160, 3\]"),
        (np.zeros((2, 83, 160, 3), np.uint8), r"uint8 \[2, 83, 160, 3\]"),
        (np.zeros((3, 210, 160, 3), np.uint8), r"uint8 \[3, 210, 160, 3\]"),
        (np.zeros((2, 210, 160, 3), np.float32), r"float32 \[2, 210, 160, 3\]"),
        (np.zeros((84, 84), np.int8), r"int8 \[84, 84\]"),
        (np.zeros((), np.uint8), r"uint8 \[\]"),
    ],
)
def test_what_is_no_frame_is_refused(frames_model: Predictor, observation: Array, got: str) -> None:
    expected = r"uint8 \[4, 84, 84\], its newest frame alone \[84, 84\], or a step's last two raw ones"
    with pytest.raises(InputError, match=rf"^observation.shape must be {expected}.*, got {got}$"):
        ServedEpisode().prepare(frames_model, observation)


def test_other_models_take_their_own_observations_alone(cartpole: Predictor, frames_model: Predictor) -> None:
    episode = ServedEpisode()
    prepared, action = step(episode, cartpole, np.float32([1, 2, 3, 4]))
    assert prepared.tolist() == [[1, 2, 3, 4]]
    assert [action] == cartpole.act([1, 2, 3, 4])[0].tolist()
    with pytest.raises(InputError, match=r"observation.shape must be float32 \[4\], got float32 \[1, 4\]"):
        episode.prepare(cartpole, np.zeros((1, 4), np.float32))
    with pytest.raises(InputError, match=r"observation.shape must be float32 \[4\], got uint8 \[84, 84\]"):
        episode.prepare(cartpole, np.zeros((84, 84), np.uint8))
    with pytest.raises(InputError, match=r"observation\.dtype must be float32, got float64"):
        episode.prepare(cartpole, np.zeros(4))
    with pytest.raises(InputError, match="observation must be finite numbers"):
        episode.prepare(cartpole, np.float32([0, math.nan, 0, 0]))
    with pytest.raises(InputError, match=r"observation\.dtype must be uint8, got int8"):
        episode.prepare(frames_model, np.zeros(ATARI_STACK, np.int8))


def test_which_models_are_shown_stacks() -> None:
    assert ATARI_STACK == (STACK, SIZE, SIZE)
    assert InputSpec(shape=ATARI_STACK, dtype="uint8", layout="chw").is_atari_stack
    for shape, dtype in (((3, 84, 84), "uint8"), (ATARI_STACK, "float32")):
        assert not InputSpec(shape=shape, dtype=dtype, layout="chw").is_atari_stack
    described: dict[str, Any] = {"name": "", "version": "", "kind": "policy", "outputs": (), "labels": ()}
    described |= {"image": None, "provenance": {}, "backend": ""}
    for shape, dtype, takes in (
        (ATARI_STACK, "uint8", True),
        (ATARI_STACK, "float32", False),
        ((84, 84), "uint8", False),
    ):
        info = ModelInfo(inputs=(TensorSpec(name="observations", dtype=dtype, shape=shape),), **described)
        assert info.takes_frames == takes  # what clients go by


# exploring


def test_draws_are_those_of_local_play_with_the_same_seed(cartpole: Predictor) -> None:
    rng = np.random.default_rng(2**64 - 1)
    episode = ServedEpisode(2**64 - 1)
    observations = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    drawn = 0
    for index, observation in enumerate(observations):
        epsilon = (0.0, 0.3, 1.0)[index % 3]
        expected = cartpole.act(observation, epsilon=epsilon, rng=rng)[0]
        _, action = step(episode, cartpole, observation, epsilon)
        assert [action] == expected.tolist()
        drawn += [action] != cartpole.act(observation)[0].tolist()
    assert 40 < drawn < 90  # half of a third of a third, and half of a third


def test_without_a_seed_draws_differ(cartpole: Predictor) -> None:
    episodes = ServedEpisode(), ServedEpisode()
    actions = [[step(each, cartpole, np.zeros(4, np.float32), 1.0)[1] for _ in range(64)] for each in episodes]
    assert actions[0] != actions[1]


# episodes


def test_episodes_are_held_from_their_start_to_their_end() -> None:
    episodes = holding(2)
    with pytest.raises(WrongKindError, match="episode 7 is unknown"), episodes.acquire(7, start=False):
        pass
    with episodes.acquire(7, start=True, seed=1) as first:
        assert len(episodes) == 0
    with episodes.acquire(7, start=False) as again:
        assert again is first
    with episodes.acquire(7, start=True) as anew:
        assert anew is not first
    with episodes.acquire(7, start=False) as again:
        assert again is anew
    episodes.end(7)
    episodes.end(8)
    with pytest.raises(WrongKindError, match="episode 7 is unknown"), episodes.acquire(7, start=False):
        pass


def test_a_start_that_fails_leaves_what_was_there() -> None:
    episodes = holding(1)
    for number in (7, 8):
        with pytest.raises(KeyError), episodes.acquire(number, start=True):
            raise KeyError
    assert len(episodes) == 0
    with episodes.acquire(7, start=True) as first:
        pass
    with pytest.raises(KeyError), episodes.acquire(7, start=True):
        raise KeyError
    with episodes.acquire(7, start=False) as again:
        assert again is first


def test_no_more_are_held_than_may_be() -> None:
    episodes = holding(2)
    refused = pytest.raises(OverloadedError, match="holds 2 episodes")
    with episodes.acquire(1, start=True), episodes.acquire(2, start=True), refused, episodes.acquire(3, start=True):
        pass  # two under way at once are as many
    with pytest.raises(OverloadedError, match="holds 2 episodes"), episodes.acquire(3, start=True):
        pass
    with episodes.acquire(1, start=True):
        pass  # in its own place
    episodes.end(2)
    with episodes.acquire(3, start=True):
        pass
    assert len(episodes) == 2


def test_a_seed_without_a_start_is_refused() -> None:
    episodes = holding(1)
    with episodes.acquire(1, start=True, seed=0):
        pass
    refused = pytest.raises(InputError, match="seed must be unset but where an episode starts, got 0 without")
    with refused, episodes.acquire(1, start=False, seed=0):
        pass


# room


def test_episodes_take_room_until_they_end() -> None:
    room = EpisodeRoom(1000)
    episodes = Episodes(100, room, NOBODY)
    for number in (1, 2):
        with episodes.acquire(number, start=True, size=400):
            pass
    assert room.held_bytes == 800
    with (
        pytest.raises(OverloadedError, match="episodes hold 800 of 1000 bytes"),
        episodes.acquire(3, start=True, size=400),
    ):
        pass
    with pytest.raises(KeyError), episodes.acquire(2, start=True, size=200):
        raise KeyError
    assert room.held_bytes == 800  # the one before is still there
    with episodes.acquire(2, start=True, size=100):
        assert room.held_bytes == 900  # both, for now
    assert room.held_bytes == 500
    episodes.end(1)
    episodes.end(1)
    assert room.held_bytes == 100
    episodes.close()
    assert room.held_bytes == 0


def test_a_caller_leaves_as_much_room_as_it_takes() -> None:
    room = EpisodeRoom(1000)
    greedy, other = (Episodes(100, room, Caller(key, "predict", limited=True)) for key in "ab")
    for number in range(5):
        with greedy.acquire(number, start=True, size=100):
            pass
    with pytest.raises(OverloadedError, match="no room for 100 more"), greedy.acquire(6, start=True, size=100):
        pass
    with other.acquire(1, start=True, size=100):
        pass
    assert room.held_bytes == 600


def test_an_episodes_bytes_are_those_of_its_frames(frames_model: Predictor, cartpole: Predictor) -> None:
    assert episode_bytes(frames_model) == EPISODE_BYTES + math.prod(ATARI_STACK)
    assert episode_bytes(cartpole) == EPISODE_BYTES
