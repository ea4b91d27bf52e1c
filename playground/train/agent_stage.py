"""Stage of a training: its newest network plays, before the visitor's eyes, and plays better as the run goes on."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from torso.checks import whole
from torso.errors import ModelError, TorsoError
from torso.playground.messages import Newest, SendToTab, TabMessage
from torso.playground.play.performance import Performance
from torso.playground.play.policies import LocalPolicy
from torso.playground.play.repertoire import recorded_choice


class AgentStage:
    """Game in which the newest network of a run plays; each newer one takes over where the game stands."""

    def __init__(self, send: SendToTab) -> None:
        self._send = send
        self._networks: Newest[tuple[Path, int]] = Newest()
        self._performance: Performance | None = None
        self._is_new = True
        self._is_hidden = False

    def begin(self) -> None:
        """Let another run's networks play, in a new game."""
        self._is_new = True

    def show(self, path: Path, total_steps: int) -> None:
        """Let a network play, from its model directory, as soon as it is loaded."""
        self._networks.put((path, total_steps))

    def put(self, message: TabMessage) -> None:
        """Take ``frame-seen``, with a frame's serial, or ``hide``, whether the page shows something else."""
        serial = None
        if message.type == "hide":
            self._is_hidden = bool(message.fields.get("on"))
        else:
            serial = whole("serial", message.fields.get("serial"), least=0)
        if self._performance is None:
            return
        self._performance.controls.is_hidden = self._is_hidden
        self._performance.changed()
        if serial is not None:
            self._performance.seen(serial)

    async def run(self) -> None:
        """Play until cancelled."""
        playing: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                path, step = await self._networks.take()
                policy = LocalPolicy(path)
                try:
                    provenance = await asyncio.to_thread(policy.load)
                except ModelError:
                    continue  # newer ones have taken its place on disk, and are on their way
                await self._send("stage", step=step)
                if self._performance is not None and not self._is_new:
                    self._performance.take_policy(policy)
                    continue
                self._is_new = False
                if playing is not None:
                    playing.cancel()
                    await asyncio.wait([playing])
                world = await asyncio.to_thread(recorded_choice, provenance, False)
                self._performance = Performance(world, policy, self._send, seed=secrets.randbelow(1 << 31))
                self._performance.controls.is_hidden = self._is_hidden
                playing = tasks.create_task(self._perform(self._performance))

    async def _perform(self, performance: Performance) -> None:
        try:
            await performance.run()
        except TorsoError as error:
            await self._send("stage-trouble", text=str(error))
        finally:
            if self._performance is performance:
                self._performance = None
