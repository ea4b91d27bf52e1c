"""Videos: content of the files, atomic writes, and that recording changes no bit of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest

from torso.agents.acting.evaluation import evaluation_seeds
from torso.agents.acting.videos import VideoRecorder, frames_per_second, record_video
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.training.driver import Training
from torso.agents.training.train_runs import open_run, train_run
from torso.agents.value_based.config import DQNConfig
from torso.envs.vector.world import World
from torso.errors import ConfigError, EnvError, MissingExtraError, StorageError, TorsoError

WORLD = World(env="CartPole-v1")
CONFIG = DQNConfig(
    hidden=(16,),
    batch_size=8,
    min_replay_size=40,
    evaluation_period=100,
    evaluation_episodes=2,
    checkpoint_period=130,
    log_period=50,
)
STEPS = 300
COLOURS = [(250, 10, 10), (10, 240, 20), (20, 30, 230), (128, 128, 128)]


def frame(colour: tuple[int, int, int], height: int = 6, width: int = 4) -> np.ndarray:
    """One colour, but for a black upper half."""
    pixels = np.full((height, width, 3), colour, np.uint8)
    pixels[: height // 2] = 0
    return pixels


def decoded(path: Path) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Decode a video's frames by another decoder; and its file's metadata."""
    video = cv2.VideoCapture(str(path))
    codes = {name: int(video.get(getattr(cv2, f"CAP_PROP_{name}"))) for name in ("FOURCC", "CODEC_PIXEL_FORMAT")}
    meta = {name: code.to_bytes(4, "little").decode() for name, code in codes.items()}
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1][:, :, ::-1])
    size = frames[0].shape[1], frames[0].shape[0]
    return frames, {**meta, "fps": video.get(cv2.CAP_PROP_FPS), "size": size}


def make(path: Path, frames: Iterable[np.ndarray], frames_per_s: float = 30.0) -> None:
    with record_video(path, frames_per_s) as add:
        for each in frames:
            add(each)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_video_shows_the_frames_in_their_order(tmp_path: Path) -> None:
    make(tmp_path / "new" / "a.mp4", [frame(colour) for colour in COLOURS], 5.0)
    frames, meta = decoded(tmp_path / "new" / "a.mp4")
    assert meta == {"size": (268, 402), "fps": 5.0, "FOURCC": "h264", "CODEC_PIXEL_FORMAT": "I420"}
    assert len(frames) == len(COLOURS)
    for pixels, colour in zip(frames, COLOURS, strict=True):
        assert np.abs(pixels[250, 134].astype(int) - colour).max() < 12
        assert pixels[150, 134].max() < 12
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(210, 160, (320, 420)), (400, 600, (600, 400)), (401, 601, (602, 402)), (10, 10, (400, 400)), (7, 133, (532, 28))],
)
def test_small_frames_grow_by_whole_factors_to_even_sides(
    tmp_path: Path, height: int, width: int, size: tuple[int, int]
) -> None:
    make(tmp_path / "a.mp4", [frame(COLOURS[0], height, width)])
    frames, meta = decoded(tmp_path / "a.mp4")
    assert meta["size"] == size
    assert np.abs(frames[0][-1, -1].astype(int) - COLOURS[0]).max() < 12


def test_frames_are_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=r"must be of one size, \(6, 4, 3\), got \(4, 4, 3\)"):
        make(tmp_path / "a.mp4", [frame(COLOURS[0]), frame(COLOURS[0], 4)])
    assert not list(tmp_path.iterdir())


def test_no_frames_make_no_file(tmp_path: Path) -> None:
    make(tmp_path / "a.mp4", [])
    assert not list(tmp_path.iterdir())


def test_what_fails_half_way_leaves_the_older_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"older")

    def frames() -> Iterator[np.ndarray]:
        yield from [frame(COLOURS[1], 100, 100)] * 200
        assert [path.suffix for path in tmp_path.iterdir() if path.name != "a.mp4"] == [".tmp"]
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        make(tmp_path / "a.mp4", frames())
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"older"


def test_a_full_disk_leaves_the_older_file(
    tmp_path: Path, largest_file: Callable[[int], AbstractContextManager[None]]
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"older")
    noise = np.random.default_rng(0).integers(256, size=(50, 200, 200, 3), dtype=np.uint8)
    for frames in (noise, noise[:2]):  # while it is fed, and when all is said
        with largest_file(4_000), pytest.raises(StorageError, match=r"cannot write .*a\.mp4: "):
            make(tmp_path / "a.mp4", list(frames))
        assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
        assert (tmp_path / "a.mp4").read_bytes() == b"older"


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot create the directory"):
        make(tmp_path / "file" / "a.mp4", [frame(COLOURS[0])])


# -- envs ------------------------------------------------------------------------------------------------------------


def test_the_env_says_how_fast_it_runs() -> None:
    assert frames_per_second(WORLD) == 50  # CartPole's


@pytest.mark.parametrize("before", [None, "x11"])
def test_a_film_needs_no_display_and_leaves_the_choice_of_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    if before is not None:
        monkeypatch.setenv("SDL_VIDEODRIVER", before)
    with record_video(tmp_path / "a.mp4", 30):
        assert os.environ["SDL_VIDEODRIVER"] == "dummy"
    assert os.environ.get("SDL_VIDEODRIVER") == before


class Sullen(gym.Env):
    """An env that declares a render mode."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gym.spaces.Box(0, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, draws: str, render_mode: str | None = None) -> None:
        self.draws, self.render_mode = draws, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.float32), {}

    def render(self) -> Any:
        if self.draws == "frames":
            return frame(COLOURS[0])
        if self.draws == "error":
            raise RuntimeError("no canvas")
        return frame(COLOURS[0]).astype(np.float32)


def refused() -> list[tuple[World, str]]:
    return [
        (World(env="torso/Identity-v0"), "torso/Identity-v0 cannot be rendered as 'rgb_array'"),
        (World(env=Sullen, env_kwargs={"draws": "error"}), "cannot be recorded: RuntimeError: no canvas"),
        (World(env=Sullen, env_kwargs={"draws": "floats"}), r"uint8 \[H, W, 3\], got float32"),
        (World(env=lambda: Sullen("frames")), "must have the render mode 'rgb_array', got None"),
    ]


@pytest.mark.parametrize(("world", "named"), refused(), ids=["modes", "raises", "floats", "function"])
def test_what_cannot_be_filmed_is_refused_before_anything_is_written(tmp_path: Path, world: World, named: str) -> None:
    with pytest.raises(EnvError, match=named):
        train_run(world, CONFIG, total_steps=STEPS, seed=0, out=tmp_path / "run", video_period=100)
    assert not (tmp_path / "run").exists()


def test_an_env_that_says_no_speed_runs_at_30_frames_a_second() -> None:
    assert frames_per_second(World(env=Sullen, env_kwargs={"draws": "frames"})) == 30


def test_without_the_extra_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(
        MissingExtraError, match=r"recording videos needs the extra 'video': pip install 'torso\[video\]'"
    ):
        train_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=tmp_path / "run", video_period=100)
    with pytest.raises(MissingExtraError):
        make(tmp_path / "a.mp4", [frame(COLOURS[0])])
    assert not list(tmp_path.iterdir())


def test_a_period_below_0_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="video_period must be a number of steps, or 0 for no videos; got -1"):
        train_run(WORLD, CONFIG, total_steps=STEPS, seed=0, out=tmp_path / "run", video_period=-1)
    assert not (tmp_path / "run").exists()


# -- runs ------------------------------------------------------------------------------------------------------------


def train(path: Path, video_period: int, *, resume: bool = False, until: int = STEPS) -> None:
    """Train; optionally up to a step, dropped there as by a kill."""
    options: dict[str, Any] = {"seed": 0, "video_period": video_period}
    with open_run(WORLD, CONFIG, total_steps=STEPS, out=path, resume=resume, **options) as run:
        for event in Training(WORLD, CONFIG, run=run, **options).run(STEPS):
            if event.total_steps >= until:
                break


def left_behind(path: Path) -> dict[str, bytes]:
    names = ["progress.jsonl", "model/weights.safetensors", "best/weights.safetensors"]
    names += [f"checkpoint/{file.name}" for file in (path / "checkpoint").iterdir() if file.suffix == ".safetensors"]
    return {name: (path / name).read_bytes() for name in names}


def test_videos_of_a_run_change_no_bit_of_it_killed_or_not(tmp_path: Path) -> None:
    train(tmp_path / "silent", 0)
    train(tmp_path / "filmed", 140)
    train(tmp_path / "killed", 140, until=200)
    (tmp_path / "killed" / "videos" / ".step-00000250.mp4.tmp").write_bytes(b"half a")  # of another period
    train(tmp_path / "killed", 70, resume=True)
    assert left_behind(tmp_path / "silent") == left_behind(tmp_path / "filmed") == left_behind(tmp_path / "killed")
    assert not (tmp_path / "silent" / "videos").exists()
    videos = {name: sorted((tmp_path / name / "videos").iterdir()) for name in ("filmed", "killed")}
    assert [path.name for path in videos["filmed"]] == ["step-00000140.mp4", "step-00000280.mp4"]
    assert [path.name for path in videos["killed"]] == [f"step-00000{step}.mp4" for step in (140, 210, 280)]
    assert RunDirectory.open(tmp_path / "killed").settings["video_period"] == 70

    frames, meta = decoded(videos["filmed"][1])
    again, _ = decoded(videos["killed"][2])
    assert (meta["size"], meta["fps"], len(frames)) == ((600, 400), 50, len(again))
    assert all(np.array_equal(one, other) for one, other in zip(frames, again, strict=True))
    assert videos["filmed"][1].stat().st_size < 2_000 * len(frames)  # 500 steps stay below a megabyte
    first, _ = decoded(videos["filmed"][0])
    assert np.abs(first[0].astype(int) - frames[0]).max() < 4  # each video is of the same episode


def test_a_camera_films_a_whole_episode(tmp_path: Path) -> None:
    def lean(obs: np.ndarray, state: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
        return (obs[:, 2] > 0).astype(np.int64), state

    [seed] = evaluation_seeds(0, 1, "video")
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=seed)
    steps, over = 0, False
    while not over:
        obs, _, over, _, _ = env.step(int(obs[2] > 0))
        steps += 1
    path = VideoRecorder(WORLD, tmp_path, seed=seed, period_steps=1).record_video(lean, 12)
    assert path == tmp_path / "step-00000012.mp4"
    assert len(decoded(path)[0]) == steps + 1


def test_a_video_that_cannot_be_written_ends_the_run_at_its_checkpoint(tmp_path: Path) -> None:
    train(tmp_path / "run", 0, until=140)
    (tmp_path / "run" / "videos").write_text("in the way")
    with pytest.raises(TorsoError, match="videos"):
        train(tmp_path / "run", 140, resume=True)
    (tmp_path / "run" / "videos").unlink()
    train(tmp_path / "run", 140, resume=True)
    assert len(list((tmp_path / "run" / "videos").iterdir())) == 2
