from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

from torso.errors import InputError
from torso.nets.prediction.atari_frames import preprocess, stack

GOLDEN = Path(__file__).parents[2] / "golden" / "atari_frames" / "frames.npz"
Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(scope="module")
def golden() -> dict[str, tuple[Pixels, Pixels]]:
    """For each game raw frames [n, 2, H, 160, 3], and the vector env's planes [n, 84, 84]."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        games = sorted({name.partition("/")[0] for name in file.files})
        return {game: (file[f"{game}/frames"], file[f"{game}/planes"]) for game in games}


def play(game: str, steps: int) -> Iterator[tuple[Pixels, Pixels, bool]]:
    """Play one game twice: ale-py's plain emulator gives raw frames, its vector env observations.

    Yields (frames [2, H, 160, 3], observation [4, 84, 84], whether an episode begins), none of a game's last step.
    """
    ALEInterface.setLoggerMode(LoggerMode.Error)
    screen = ALEInterface()
    screen.setFloat("repeat_action_probability", 0.0)
    screen.setInt("random_seed", 5)
    screen.loadROM(str(roms.get_rom_path(game)))
    screen.reset_game()
    actions = screen.getMinimalActionSet()
    games = AtariVectorEnv(game, 1, num_threads=1, noop_max=0, use_fire_reset=False)
    obs, _ = games.reset(seed=np.array([5]))
    yield np.stack([screen.getScreenRGB()] * 2), obs[0], True
    rng = np.random.default_rng(5)
    for _ in range(steps):
        action = int(rng.integers(len(actions)))
        obs, *_ = games.step(np.array([action]))
        if screen.game_over():
            screen.reset_game()
            yield np.stack([screen.getScreenRGB()] * 2), obs[0], True
            continue
        frames = []
        for _ in range(4):
            screen.act(actions[action])
            frames.append(screen.getScreenRGB())
            if screen.game_over():
                break
        else:
            yield np.stack(frames[-2:]), obs[0], False


# the same bits as the vector env


def test_golden_frames_of_real_games_become_the_vector_envs_planes(golden):
    for game, (frames, planes) in golden.items():
        for pair, plane in zip(frames, planes, strict=True):
            np.testing.assert_array_equal(preprocess(pair), plane, err_msg=game)


def test_the_golden_frames_show_what_could_go_wrong(golden):
    assert {frames.shape[2] for frames, _ in golden.values()} == {210, 214, 220, 230, 250}
    assert sum(len(frames) for frames, _ in golden.values()) == 39
    packed = np.concatenate([(frames @ np.array([65_536, 256, 1])).ravel() for frames, _ in golden.values()])
    assert len(np.unique(packed)) > 60, "colours"
    differing = sum((pair[0] != pair[1]).any() for frames, _ in golden.values() for pair in frames)
    assert differing > 20, "where the two frames are equal, their maximum says nothing"


@pytest.mark.parametrize("game", ["breakout", "seaquest", "asteroids", "carnival", "king_kong"])
def test_a_played_game_becomes_the_vector_envs_observations(game):
    obs, starts, steps = None, 0, 0
    for frames, expected, starting in play(game, 250 if game == "breakout" else 80):
        obs = stack(None if starting else obs, preprocess(frames))
        np.testing.assert_array_equal(obs, expected)
        starts += starting
        steps += 1
    assert steps > 75
    assert starts == (2 if game == "breakout" else 1)


# gray


def test_colours_become_the_gray_that_exact_arithmetic_gives():
    red, green, blue = np.meshgrid(*[np.arange(256)] * 3, indexing="ij")
    tenthousandths = 2989 * red + 5870 * green + 1140 * blue
    ties = np.argwhere(tenthousandths % 10_000 == 5_000)  # [n, 3]; the hardest to round
    others = np.random.default_rng(0).integers(256, size=(200, 3))
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, -1).T
    assert len(ties) == 1_703
    colours = np.concatenate([ties[::7], others, corners])
    gray = (colours @ [2989, 5870, 1140] + 5_000) // 10_000
    for colour, expected in zip(colours.astype(np.uint8), gray, strict=True):
        plane = preprocess(np.broadcast_to(colour, (2, 84, 160, 3)))
        assert plane.min() == plane.max() == expected, colour


def test_planes_are_area_averages_of_the_brighter_frame():
    frames = np.random.default_rng(1).integers(256, size=(2, 210, 160, 3), dtype=np.uint8)
    gray = ((frames.astype(np.int64) @ [2989, 5870, 1140] + 5_000) // 10_000).max(axis=0)
    expected = overlaps(210) @ gray @ overlaps(160).T
    assert np.abs(preprocess(frames) - expected).max() <= 0.5 + 1e-3


def overlaps(size: int) -> np.ndarray[Any, Any]:
    """[84, size]: the share of each of ``size`` rows in each of 84."""
    edges = np.arange(85) * size / 84
    rows = np.arange(size)
    shares = np.minimum(edges[1:, None], rows + 1) - np.maximum(edges[:-1, None], rows)
    return np.clip(shares, 0, None) * 84 / size


# arrays


def test_a_batch_is_its_rows(golden):
    frames, planes = golden["seaquest"]
    batch = preprocess(frames)
    assert (batch.shape, batch.dtype) == ((3, 84, 84), np.uint8)
    np.testing.assert_array_equal(batch, planes)
    assert preprocess(frames[:0]).shape == (0, 84, 84)


def test_the_order_of_the_two_frames_and_of_their_bytes_says_nothing(golden):
    pair, plane = golden["asteroids"][0][1], golden["asteroids"][1][1]
    assert (pair[0] != pair[1]).any()
    column_major = np.asfortranarray(pair)
    column_major.setflags(write=False)
    for same in (pair[::-1], column_major):
        np.testing.assert_array_equal(preprocess(same), plane)


@pytest.mark.parametrize(
    ("frames", "got"),
    [
        (np.zeros((2, 210, 160, 3)), "float64"),
        (np.zeros((2, 210, 160, 3), np.int8), "int8"),
        (np.zeros((210, 160, 3), np.uint8), r"uint8 \[210, 160, 3\]"),
        (np.zeros((1, 210, 160, 3), np.uint8), r"\[1, 210, 160, 3\]"),
        (np.zeros((4, 210, 160, 3), np.uint8), r"\[4, 210, 160, 3\]"),
        (np.zeros((3, 210, 160, 2), np.uint8), r"\[3, 210, 160, 2\]"),
        (np.zeros((2, 3, 210, 160), np.uint8), r"\[2, 3, 210, 160\]"),
        (np.zeros((2, 210, 160), np.uint8), r"\[2, 210, 160\]"),
        (np.zeros((2, 160, 210, 3), np.uint8), r"\[2, 160, 210, 3\]"),
        (np.zeros((2, 83, 160, 3), np.uint8), r"\[2, 83, 160, 3\]"),
        (np.zeros((5, 3, 210, 160, 3), np.uint8), r"\[5, 3, 210, 160, 3\]"),
        (np.zeros((1, 1, 2, 210, 160, 3), np.uint8), r"\[1, 1, 2, 210, 160, 3\]"),
        (np.uint8(0), "uint8"),
        ([[1]], "list"),
    ],
)
def test_what_is_not_a_pair_of_frames_is_refused(frames, got):
    with pytest.raises(InputError, match=f"frames must be .*last two raw RGB frames.*, got .*{got}"):
        preprocess(frames)


def test_a_stack_begins_with_zeros_and_keeps_the_last_four():
    planes = np.arange(1, 7, dtype=np.uint8)[:, None, None] * np.ones((84, 84), np.uint8)
    obs = None
    for plane in planes:
        before = None if obs is None else obs.copy()
        older = obs
        obs = stack(obs, plane)
        if older is not None:
            np.testing.assert_array_equal(older, before)  # the caller may have kept it
        newest = int(plane[0, 0])
        assert obs[:, 7, 7].tolist() == [max(0, newest - age) for age in (3, 2, 1, 0)]
        assert (obs.shape, obs.dtype) == ((4, 84, 84), np.uint8)
