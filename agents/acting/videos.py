"""Videos of episodes, as MP4 files. The extra ``video`` installs what encodes them (ffmpeg)."""

from __future__ import annotations

import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from torso.agents.acting.evaluation import Actor, evaluate
from torso.envs.vector.world import World
from torso.errors import EnvError, MissingExtraError, StorageError, TorsoError
from torso.files import make_directory, sync_directory

Frame: TypeAlias = NDArray[np.uint8]  # [H, W, 3]
_SMALLEST_SIDE = 400  # pixels of the longer side at least, by a whole factor
_FRAMES_PER_S = 30.0  # where the env does not say
_MAX_STEPS = 9_000  # of a film during training: five minutes at 30 frames a second


def frames_per_second(world: World) -> float:
    """How many steps of an episode a second of its video shows: what the env says, or else 30.

    Asked before anything is written or trained, it refuses what cannot be filmed.

    Raises:
        MissingExtraError: nothing here encodes videos.
        EnvError: the env draws no frames, or fails to.
    """
    _ffmpeg()
    envs = world.make([0], render_mode="rgb_array")
    try:
        with _without_a_display():
            envs.reset()
            envs.render()
        return float((envs.metadata or {}).get("render_fps") or _FRAMES_PER_S)
    except TorsoError:
        raise
    except Exception as error:
        raise EnvError(f"{world.name} cannot be filmed: {type(error).__name__}: {error}") from error
    finally:
        envs.close()


class Camera:
    """Films an episode of a run now and then, each time the same one, into a folder."""

    def __init__(self, world: World, folder: Path, *, seed: int, period_steps: int) -> None:
        self.period_steps = period_steps
        self._world, self._folder, self._seed = world, folder, seed
        self._frames_per_s = frames_per_second(world)
        for leftover in folder.glob(".*.mp4.tmp"):  # of a run that was killed while it filmed
            leftover.unlink(missing_ok=True)

    def film(self, act: Actor, total_steps: int) -> Path:
        """Play in an env of its own, and leave the video in the folder; raises StorageError as `film` does."""
        path = self._folder / f"step-{total_steps:08d}.mp4"
        with film(path, self._frames_per_s) as add:
            evaluate(act, self._world, [self._seed], max_steps=_MAX_STEPS, on_frames=lambda frames: add(frames[0]))
        return path


@contextmanager
def film(path: Path | str, frames_per_s: float) -> Iterator[Callable[[Frame], None]]:
    """Make an MP4 file (H.264). Gives what takes the frames, uint8 [H, W, 3], all of one size.

    The file appears when the block ends without an error, and only then.

    Raises:
        MissingExtraError: nothing here encodes videos.
        StorageError: the file could not be written; an older one is as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # the next attempt writes over a killed one's
    make_directory(path.parent)
    with tempfile.TemporaryFile() as said, _without_a_display():
        encoder = _Encoder(_ffmpeg(), temporary, frames_per_s, said)
        try:
            yield encoder.add
            if encoder.end():
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
                sync_directory(path.parent)
        except OSError as error:
            if isinstance(error, TorsoError):
                raise
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            encoder.kill()
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


class _Encoder:
    """ffmpeg, once there is a frame; what it complains of goes into ``said``, and is raised as OSError."""

    def __init__(self, ffmpeg: str, path: Path, frames_per_s: float, said: IO[bytes]) -> None:
        self._ffmpeg, self._path, self._frames_per_s, self._said = ffmpeg, path, frames_per_s, said
        self._shape: tuple[int, ...] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, frame: Frame) -> None:
        """Encode a frame."""
        if self._process is None:
            self._shape = frame.shape
            self._process = self._start(_enlarged(frame))
        elif frame.shape != self._shape:
            raise EnvError(f"frames of a video are of one size, expected {self._shape}, got {frame.shape}")
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(_enlarged(frame).tobytes())
        except BrokenPipeError as error:
            raise self._failed() from error

    def end(self) -> bool:
        """Wait until all is written; whether there was anything to write."""
        if self._process is None:
            return False
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # of a process that ended before; its exit code says so
            self._process.stdin.close()
        if self._process.wait() != 0:
            raise self._failed()
        return True

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _start(self, frame: Frame) -> subprocess.Popen[bytes]:
        height, width, _ = frame.shape
        command = [
            *(self._ffmpeg, "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._frames_per_s}"),
            *("-i", "-", "-an", "-c:v", "libx264", "-crf", "23", "-pix_fmt", "yuv420p"),  # what every player plays
            *("-movflags", "+faststart", "-f", "mp4", str(self._path.absolute())),
        ]
        # A group of its own: Ctrl-C is for the training to take, which goes on to save.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._said, process_group=0)

    def _failed(self) -> OSError:
        assert self._process is not None  # noqa: S101 - it failed
        self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace").strip().splitlines()
        return OSError(said[-1] if said else "the encoder failed")


@contextmanager
def _without_a_display() -> Iterator[None]:
    """For a while, let envs that draw with SDL (pygame) look for no display, which a film does not need."""
    before = os.environ.get("SDL_VIDEODRIVER")
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SDL_VIDEODRIVER"]
        else:
            os.environ["SDL_VIDEODRIVER"] = before


def _ffmpeg() -> str:
    """The program that encodes."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError("recording videos", "video") from error


def _enlarged(frame: Frame) -> Frame:
    """A frame by a whole factor, so that pixels stay sharp, and with even sides, as H.264 wants them."""
    factor = math.ceil(_SMALLEST_SIDE / max(frame.shape[:2]))
    large = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = large.shape[:2]
    return np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
