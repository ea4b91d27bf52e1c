"""Video recording of episodes as MP4 files. The extra ``video`` installs the encoder (ffmpeg)."""

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
_SMALLEST_SIDE = 400  # minimum of the longer side in pixels, reached by an integer scale factor
_FRAMES_PER_S = 30.0  # where the env does not specify it
_MAX_STEPS = 9_000  # of a video during training: five minutes at 30 frames a second


def frames_per_second(world: World) -> float:
    """Frame rate of an env's videos, one frame a step: its metadata's ``render_fps``, or else 30.

    Called before anything is written or trained, it checks that the env can be recorded.

    Raises:
        MissingExtraError: no video encoder is installed.
        EnvError: the env renders no frames, or fails to.
    """
    _ffmpeg()
    envs = world.make([0], render_mode="rgb_array")
    try:
        with _headless_sdl():
            envs.reset()
            envs.render()
        return float((envs.metadata or {}).get("render_fps") or _FRAMES_PER_S)
    except TorsoError:
        raise
    except Exception as error:
        raise EnvError(f"{world.name} cannot be recorded: {type(error).__name__}: {error}") from error
    finally:
        envs.close()


class VideoRecorder:
    """Video recorder of a training run: records one episode, always with the same seed, into a folder."""

    def __init__(self, world: World, folder: Path, *, seed: int, period_steps: int) -> None:
        self.period_steps = period_steps
        self._world, self._folder, self._seed = world, folder, seed
        self._frames_per_s = frames_per_second(world)
        for leftover in folder.glob(".*.mp4.tmp"):  # of a run that was killed during a recording
            leftover.unlink(missing_ok=True)

    def record_video(self, act: Actor, total_steps: int) -> Path:
        """Record an episode in a separate env; return the video's path. Raises StorageError as `record_video`."""
        path = self._folder / f"step-{total_steps:08d}.mp4"
        with record_video(path, self._frames_per_s) as add:
            evaluate(act, self._world, [self._seed], max_steps=_MAX_STEPS, on_frames=lambda frames: add(frames[0]))
        return path


@contextmanager
def record_video(path: Path | str, frames_per_s: float) -> Iterator[Callable[[Frame], None]]:
    """Write an MP4 file (H.264). Yields a function that adds a frame, uint8 [H, W, 3], all of one size.

    The file appears when the block ends without an error, and only then.

    Raises:
        MissingExtraError: no video encoder is installed.
        StorageError: the file could not be written; an older one is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")  # the next attempt overwrites a killed one's
    make_directory(path.parent)
    with tempfile.TemporaryFile() as stderr, _headless_sdl():
        encoder = _Encoder(_ffmpeg(), temporary, frames_per_s, stderr)
        try:
            yield encoder.add
            if encoder.finish():
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
    """ffmpeg process, started at the first frame; its errors go to the file ``stderr``, and are raised as OSError."""

    def __init__(self, ffmpeg: str, path: Path, frames_per_s: float, stderr: IO[bytes]) -> None:
        self._ffmpeg, self._path, self._frames_per_s, self._stderr = ffmpeg, path, frames_per_s, stderr
        self._shape: tuple[int, ...] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, frame: Frame) -> None:
        """Encode a frame."""
        if self._process is None:
            self._shape = frame.shape
            self._process = self._start(_upscale(frame))
        elif frame.shape != self._shape:
            raise EnvError(f"frames of a video must be of one size, {self._shape}, got {frame.shape}")
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            self._process.stdin.write(_upscale(frame).tobytes())
        except BrokenPipeError as error:
            raise self._error() from error

    def finish(self) -> bool:
        """Wait until all frames are encoded; returns whether there were any."""
        if self._process is None:
            return False
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        with suppress(BrokenPipeError):  # of a process that ended before; its exit code is checked below
            self._process.stdin.close()
        if self._process.wait() != 0:
            raise self._error()
        return True

    def kill(self) -> None:
        """Kill the process, if it is still running."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _start(self, frame: Frame) -> subprocess.Popen[bytes]:
        height, width, _ = frame.shape
        command = [
            *(self._ffmpeg, "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._frames_per_s}"),
            *("-i", "-", "-an", "-c:v", "libx264", "-crf", "23", "-pix_fmt", "yuv420p"),  # supported by every player
            *("-movflags", "+faststart", "-f", "mp4", str(self._path.absolute())),
        ]
        # A separate process group: Ctrl-C reaches only the training, which then saves.
        return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=self._stderr, process_group=0)

    def _error(self) -> OSError:
        assert self._process is not None  # noqa: S101 - it failed
        self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return OSError(lines[-1] if lines else "the encoder failed")


@contextmanager
def _headless_sdl() -> Iterator[None]:
    """Run SDL (pygame) headless within the block: envs that render with it then need no display."""
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
    """Path of the ffmpeg executable."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError("recording videos", "video") from error


def _upscale(frame: Frame) -> Frame:
    """Scale a frame by an integer factor, so that pixels stay sharp, and pad it to even sides, as H.264 requires."""
    factor = math.ceil(_SMALLEST_SIDE / max(frame.shape[:2]))
    large = frame.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = large.shape[:2]
    return np.pad(large, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
