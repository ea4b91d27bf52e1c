"""Train: a short run that a tab begins, watches, stops, continues and saves.

The run's events make its course; the tab is sent the newest part of that once it has taken the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from torso.errors import ConfigError, TorsoError
from torso.playground.messages import SendToTab, TabMessage
from torso.playground.train.agent_stage import AgentStage
from torso.playground.train.course import ENDS, TrainingCourse
from torso.playground.train.live_runs import LiveRun, LiveRuns
from torso.playground.train.short_runs import ShortRun, env_choices, model_commands, parse_short_run, require_run_name

PERIOD_S = 0.2  # between two messages
MOST_WAITING = 4  # commands of a tab


class Train:
    """Training of one tab."""

    def __init__(self, runs: LiveRuns, send: SendToTab) -> None:
        self._runs = runs
        self._send = send
        self._stage = AgentStage(send)
        self._commands: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(MOST_WAITING)
        self._live: LiveRun | None = None
        self._course: TrainingCourse | None = None
        self._sent: tuple[TrainingCourse | None, int] = None, 0  # the course that the tab has, and its revision
        self._num_sent = 0, 0  # points of its curves
        self._is_open = False
        self._has_list = asyncio.Event()
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def put(self, message: TabMessage) -> None:
        """Take a message: open, begin, resume, stop, look, save, or that news has arrived."""
        fields = message.fields
        match message.type:
            case "open":
                self._command(self._open)
            case "begin":
                run = parse_short_run(fields)
                self._require_idle()
                self._command(lambda: self._begin(run))
            case "resume":
                resumed = require_run_name(fields.get("name"))
                self._require_idle()
                self._command(lambda: self._resume(resumed))
            case "look":
                looked = require_run_name(fields.get("name"))
                self._require_idle()
                self._command(lambda: self._look(looked))
            case "save":
                saved = require_run_name(fields.get("run"))
                name = require_run_name(fields.get("name"), "the model's name")
                self._command(lambda: self._save(saved, name))
            case "stop":
                if self._live is not None:
                    self._live.stop()
            case "seen":
                self._has_room.set()
            case "frame-seen" | "hide":
                self._stage.put(message)
            case other:
                raise ConfigError(
                    "type must be one of open, begin, resume, look, save, stop, seen, frame-seen and hide, got "
                    f"{other!r}"
                )

    async def run(self) -> None:
        """Do what the tab asks for, and send it news; a run that it leaves behind is stopped."""
        unlisten = self._runs.listen(self._list_changed)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work())
                tasks.create_task(self._send_lists())
                tasks.create_task(self._send_news())
                tasks.create_task(self._stage.run())
        finally:
            unlisten()
            if self._live is not None:
                self._live.stop()

    # -- commands ------------------------------------------------------------------------------------------------------

    def _command(self, command: Callable[[], Awaitable[None]]) -> None:
        try:
            self._commands.put_nowait(command)
        except asyncio.QueueFull:
            raise ConfigError(f"at most {MOST_WAITING} requests may wait, got one more; ask again") from None

    def _require_idle(self) -> None:
        if self._live is not None and self._live.course.phase not in ENDS:
            raise ConfigError(
                f"a tab trains one run at a time, got another while {self._live.course.name} is under way"
            )

    async def _work(self) -> None:
        while True:
            command = await self._commands.get()
            try:
                await command()
            except TorsoError as error:
                await self._send("error", text=str(error))

    async def _open(self) -> None:
        envs = await asyncio.to_thread(env_choices)
        await self._send("choices", envs=envs, folder=str(self._runs.folder.path))
        self._is_open = True
        self._list_changed()

    async def _begin(self, run: ShortRun) -> None:
        await self._wait_for_end()
        course = await asyncio.to_thread(self._runs.folder.new_course, run)
        await asyncio.to_thread(self._runs.folder.make)
        settings = {"env": run.env, "algorithm": run.algorithm, "steps": run.steps, "seed": run.seed, "resume": False}
        self._start(course, settings)

    async def _resume(self, name: str) -> None:
        await self._wait_for_end()
        course = await asyncio.to_thread(self._runs.folder.read_course, name)
        course.phase, course.text = "starting", ""
        self._start(course, {"resume": True})

    async def _wait_for_end(self) -> None:
        """Wait for the process of a run that has said its last word."""
        self._require_idle()
        if self._live is not None:
            await self._live.has_ended.wait()

    def _start(self, course: TrainingCourse, settings: dict[str, object]) -> None:
        self._live = self._runs.begin(course, settings, self._changed, self._stage.show)
        self._stage.begin()
        self._show(course)

    async def _look(self, name: str) -> None:
        self._require_idle()
        if name in self._runs.names:
            raise ConfigError(f"{name} must not be under way, got one that another tab trains; look at it there")
        course = await asyncio.to_thread(self._runs.folder.read_course, name)
        self._show(course)
        self._stage.begin()
        self._stage.show(Path(course.path), course.step)

    async def _save(self, run: str, name: str) -> None:
        path = await asyncio.to_thread(self._runs.folder.save, run, name)
        await self._send("saved", name=name, path=str(path), commands=model_commands(name, path))
        self._runs.tell()

    # -- news ----------------------------------------------------------------------------------------------------------

    def _show(self, course: TrainingCourse) -> None:
        self._course = course
        self._has_news.set()

    def _changed(self) -> None:
        self._has_news.set()

    def _list_changed(self) -> None:
        if self._is_open:
            self._has_list.set()

    async def _send_lists(self) -> None:
        while True:
            await self._has_list.wait()
            self._has_list.clear()
            runs = self._runs
            await self._send("runs", runs=await asyncio.to_thread(runs.folder.entries, runs.names))
            await asyncio.sleep(PERIOD_S)

    async def _send_news(self) -> None:
        while True:
            await self._has_news.wait()
            await self._has_room.wait()
            self._has_news.clear()
            self._has_room.clear()
            if self._course is not None:
                await self._send_course(self._course)
            await asyncio.sleep(PERIOD_S)

    async def _send_course(self, course: TrainingCourse) -> None:
        """Send the course as it is now, and what its curves have gained."""
        is_fresh = self._sent != (course, course.revision)
        figures, evaluations = (0, 0) if is_fresh else self._num_sent
        self._sent = course, course.revision
        self._num_sent = len(course.figures), len(course.evaluations)
        fields = {
            **course.to_json(),
            "is_fresh": is_fresh,
            "is_live": self._live is not None and self._live.course is course and course.phase not in ENDS,
            "episodes": course.take_episodes(),
            "figures": course.figures[figures:],
            "evaluations": course.evaluations[evaluations:],
        }
        await self._send("course", **fields)
