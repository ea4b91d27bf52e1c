"""Runs under way: a process for each, a few at once, and no two in one directory.

They belong to the playground, not to a tab, so that a tab that goes away leaves a checkpoint behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from torso.errors import ConfigError
from torso.playground.train.course import ENDS, TrainingCourse
from torso.playground.train.run_folder import RunFolder

logger = logging.getLogger(__name__)

MOST_RUNS = 2
END_S = 30.0
LAST_LINES = 20
LONGEST_LINE = 1 << 20  # bytes


class LiveRun:
    """Run under way: its process, and its course. ``on_change`` is called after each event."""

    def __init__(
        self,
        course: TrainingCourse,
        settings: Mapping[str, Any],
        on_change: Callable[[], None],
        on_network: Callable[[Path, int], None],
    ) -> None:
        self.course = course
        self.has_ended = asyncio.Event()
        self._settings = dict(settings)
        self._on_change = on_change
        self._on_network = on_network
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopping = False
        self._lines: deque[str] = deque(maxlen=LAST_LINES)

    def stop(self) -> None:
        """Stop in order: a training that has begun writes a checkpoint, one that has not leaves nothing."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self.course.stop()
        self._on_change()
        if self._process is not None:
            self._end_input(self._process)

    def kill(self) -> None:
        """End at once; the latest checkpoint stays."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def run(self) -> None:
        """Train, until the end of the process."""
        try:
            returncode = await self._follow()
        except asyncio.CancelledError:
            self.kill()
            raise
        except Exception:
            logger.exception("a training cannot be followed any more")
            self.kill()
            self.course.end("failed", "an unexpected error, which is a bug: the terminal has it")
        else:
            self._check_end(returncode)
        self._on_change()

    async def _follow(self) -> int:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torso.playground.train.trainer", json.dumps(self._settings)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the playground's, which stops it
            limit=LONGEST_LINE,
        )
        self._process = process
        if self._is_stopping:
            self._end_input(process)
        errors = asyncio.create_task(self._keep_lines(process.stderr))
        async for line in _lines_of(process.stdout):
            event = json.loads(line)
            self.course.apply(event)
            self._tell_network(event)
            self._on_change()
        await errors
        return await process.wait()

    def _tell_network(self, event: Mapping[str, Any]) -> None:
        """Tell of a newer network; at the end of the run, of one that stays."""
        out = Path(self.course.path)
        match event["type"]:
            case "network":
                self._on_network(Path(event["path"]), self.course.step)
            case "done" if (out / "best").is_dir():
                self._on_network(out / "best", int(event["best_step"]))
            case "stopped":
                self._on_network(out / "model", self.course.step)

    def _check_end(self, returncode: int) -> None:
        """Find words where the process ended without any."""
        if self.course.phase in ENDS:
            return
        if self._is_stopping and returncode in (0, -signal.SIGTERM):
            self.course.end("stopped", "stopped before it began")
            return
        words = "\n".join(self._lines)
        logger.error("a training ended with %d:\n%s", returncode, words)
        last = self._lines[-1] if self._lines else "without a word"
        self.course.end("failed", f"the training's process ended with {returncode}: {last}; the terminal has more")

    async def _keep_lines(self, stream: asyncio.StreamReader | None) -> None:
        async for line in _lines_of(stream):
            self._lines.append(line.decode(errors="replace").rstrip())

    def _end_input(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is not None:
            process.stdin.close()
        if process.returncode is None:
            process.terminate()  # which ends it at once as long as it has not begun


async def _lines_of(stream: asyncio.StreamReader | None) -> AsyncIterator[bytes]:
    if stream is not None:
        async for line in stream:
            yield line


class LiveRuns:
    """Runs under way, by name. ``on_network`` is called with each newer network on disk, and its step."""

    def __init__(self, folder: RunFolder, *, most: int = MOST_RUNS) -> None:
        self.folder = folder
        self._most = most
        self._tasks: dict[str, tuple[LiveRun, asyncio.Task[None]]] = {}
        self._listeners: set[Callable[[], None]] = set()

    @property
    def names(self) -> set[str]:
        """Names of the runs under way."""
        return {name for name, (run, _) in self._tasks.items() if run.course.phase not in ENDS}

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a listener whenever a run begins or ends, or a model is saved; returns what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def tell(self) -> None:
        """Call the listeners."""
        for listener in tuple(self._listeners):
            listener()

    def begin(
        self,
        course: TrainingCourse,
        settings: Mapping[str, Any],
        on_change: Callable[[], None],
        on_network: Callable[[Path, int], None] = lambda path, step: None,
    ) -> LiveRun:
        """Begin a run in its directory. ConfigError where as many run already, or this one does."""
        if course.name in self._tasks:
            raise ConfigError(f"{course.name} must not be under way, got one that another tab trains; stop it there")
        if len(self._tasks) >= self._most:
            raise ConfigError(
                f"at most {self._most} runs may be under way at once, got {', '.join(self._tasks)}; wait for an end, "
                "or stop one in its tab"
            )
        is_listed = False

        def change() -> None:
            nonlocal is_listed
            on_change()
            if is_listed != (course.phase not in ("starting", *ENDS)):  # its directory is there, or it has ended
                is_listed = not is_listed
                self.tell()

        run = LiveRun(course, {**settings, "out": course.path}, change, on_network)
        self._tasks[course.name] = run, asyncio.create_task(self._run(run))
        self.tell()
        return run

    async def _run(self, run: LiveRun) -> None:
        try:
            await run.run()
        finally:
            del self._tasks[run.course.name]
            run.has_ended.set()
            self.tell()

    async def close(self) -> None:
        """Stop all in order, and wait for their checkpoints."""
        running = list(self._tasks.values())
        for run, _ in running:
            run.stop()
        if not running:
            return
        _, late = await asyncio.wait([task for _, task in running], timeout=END_S)
        for run, task in running:
            if task in late:
                logger.warning("the training of %s is ended without a checkpoint", run.course.name)
                run.kill()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
