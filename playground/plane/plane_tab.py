"""Two dimensions: a tab's points and settings, its network's training, and snapshots as fast as the tab sees them.

A tab sends ``set`` (a ready set by name), ``begin`` (settings, the tab's number for this training, and points as the
body: new weights), ``points``, ``train`` (on or off), ``step``, ``speed``, ``look`` (at a unit) and ``seen`` (the last
snapshot). It gets ``set``, ``snapshot`` and, where the loss diverges, ``trouble``. The next snapshot is made once the
last one has been seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from torso.checks import choice, flag, whole
from torso.errors import ConfigError, TorsoError
from torso.playground.messages import SendToTab, TabMessage
from torso.playground.plane.plane_settings import MOST_LAYERS, MOST_UNITS_A_LAYER, PlaneSettings
from torso.playground.plane.points import READY_SETS, PlanePoints, parse_points, ready_set

if TYPE_CHECKING:
    from torso.playground.plane.plane_trainer import PlaneTrainer

T = TypeVar("T")

SPEEDS = {"slow": 10.0, "medium": 100.0, "fast": 2000.0}  # gradient steps a second, where the machine can
THREAD = "torso-plane"
TICK_S = 1 / 60  # between slices of steps
SLICE_S = 0.03  # of steps at once, at most
SNAPSHOT_S = 1 / 15  # between snapshots, at least
PATIENCE_S = 1.0  # training goes on so long without its last snapshot being seen
MOST_STEPS_AT_ONCE = 100
DIVERGED = (
    "The loss is not a number any more: the steps are too large. Choose a smaller learning rate, and start again."
)


class PlaneTab:
    """Network of one tab, in a thread of its own that begins with its first work."""

    def __init__(self, send: SendToTab) -> None:
        self._send = send
        self._woken = asyncio.Event()
        self._trainer: PlaneTrainer | None = None
        self._settings: PlaneSettings | None = None  # of the newest ``begin``
        self._set_asked: str | None = None
        self._asked_number, self._number = 0, 0  # the tab's, of the newest ``begin`` and of the trainer
        self._has_begun = False  # and the trainer is yet to be made
        self._points: PlanePoints | None = None  # that the trainer has yet to take
        self._is_training = False
        self._single_steps = 0
        self._steps_a_second = SPEEDS["medium"]
        self._looked: tuple[int, int] | None = None
        self._owed, self._stepped_s = 0.0, 0.0  # steps that are due, and when that was reckoned
        self._serial, self._sent_s = 0, 0.0  # of the last snapshot
        self._is_seen = True
        self._has_changed = False  # since the last snapshot

    def put(self, message: TabMessage) -> None:
        """Take a message. ConfigError where it is none of these."""
        fields = message.fields
        match message.type:
            case "set":
                choice("a ready set", fields.get("name"), READY_SETS)
                self._set_asked = fields["name"]
            case "begin":
                settings = PlaneSettings.parse(fields)
                number = whole("number", fields.get("number", 0), least=0)
                self._points = parse_points(message.body, settings.num_classes)
                self._settings, self._asked_number, self._has_begun = settings, number, True
                self._single_steps = 0
            case "points":
                self._points = parse_points(message.body, self._begun().num_classes)
            case "train":
                self._begun()
                self._is_training = flag("train's on", fields.get("on"))
                self._has_changed = True
            case "step":
                self._begun()
                self._single_steps = min(self._single_steps + 1, MOST_STEPS_AT_ONCE)
            case "speed":
                choice("speed", fields.get("speed"), tuple(SPEEDS))
                self._steps_a_second = SPEEDS[fields["speed"]]
            case "look":
                self._looked = _parse_look(message)
                self._has_changed = self._trainer is not None
            case "seen":
                self._is_seen = self._is_seen or fields.get("serial") == self._serial
            case other:
                raise ConfigError(
                    f"type must be one of set, begin, points, train, step, speed, look, seen, got {other!r}"
                )
        self._woken.set()

    def _begun(self) -> PlaneSettings:
        if self._settings is None:
            raise ConfigError("the first message about a network must be begin, got none; begin")
        return self._settings

    async def run(self) -> None:
        """Train as the messages say, until cancelled; what the thread does then ends with its slice."""
        thread = ThreadPoolExecutor(1, THREAD)
        try:
            while True:
                self._woken.clear()
                await self._take_orders(thread)
                if self._trainer is not None:
                    await self._advance(thread, self._trainer)
                    await self._show(thread, self._trainer)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), self._pause_s())
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    async def _take_orders(self, thread: ThreadPoolExecutor) -> None:
        """Send a ready set, make a new trainer, or give the one that is there the newest points."""
        if self._set_asked is not None:
            name, self._set_asked = self._set_asked, None
            points = await _call(thread, lambda: ready_set(name))
            await self._send("set", points.packed(), name=name, num_classes=points.num_classes)
        points_now, self._points = self._points, None
        if points_now is None:
            return
        begins, self._has_begun = self._has_begun, False
        try:
            if begins:
                settings, number = self._begun(), self._asked_number
                self._trainer = await _call(thread, lambda: _make_trainer(settings, points_now))
                self._number = number
            elif (trainer := self._trainer) is not None:
                await _call(thread, lambda: trainer.take_points(points_now))
        except TorsoError as error:
            await self._send("error", text=str(error))
        self._has_changed = True

    async def _advance(self, thread: ThreadPoolExecutor, trainer: PlaneTrainer) -> None:
        """Make the steps that are due since the last time, and those that were asked for one by one."""
        now = time.monotonic()
        if self._is_stepping(now):
            since_s = min(now - self._stepped_s, 2 * SLICE_S)  # what a busy machine missed is not made up for
            self._owed += since_s * self._steps_a_second
        self._stepped_s = now
        due, asked = int(self._owed), self._single_steps
        self._owed -= due
        self._single_steps = 0
        if due or asked:
            made = await _call(thread, lambda: trainer.advance(due + asked, SLICE_S))
            self._has_changed = self._has_changed or made > 0
        if trainer.has_diverged and (self._is_training or asked):
            await self._stop_diverged()

    async def _stop_diverged(self) -> None:
        self._is_training, self._owed, self._has_changed = False, 0.0, True
        await self._send("trouble", text=DIVERGED)

    async def _show(self, thread: ThreadPoolExecutor, trainer: PlaneTrainer) -> None:
        """Send a snapshot where something has changed, the tab has seen the last one, and that is not too recent."""
        now = time.monotonic()
        if not self._has_changed or not self._is_seen or now - self._sent_s < SNAPSHOT_S:
            return
        self._has_changed = False
        looked = self._looked
        snapshot = await _call(thread, lambda: trainer.snapshot(looked))
        if trainer.has_diverged and self._is_training:
            await self._stop_diverged()
        self._serial += 1
        self._is_seen, self._sent_s = False, now
        settings = trainer.settings
        await self._send(
            "snapshot",
            snapshot.packed(),
            serial=self._serial,
            number=self._number,
            step=snapshot.step,
            loss=snapshot.loss,
            accuracy=snapshot.accuracy,
            is_training=self._is_training,
            has_diverged=trainer.has_diverged,
            num_classes=settings.num_classes,
            hidden=settings.hidden,
            looked=None if snapshot.looked is None else looked,
            looked_scale=snapshot.looked_scale,
        )

    def _is_stepping(self, now: float) -> bool:
        """Whether steps are due as time goes by: a tab that does not see them any more gets none."""
        is_watched = self._is_seen or now - self._sent_s < PATIENCE_S
        return self._is_training and self._trainer is not None and self._trainer.can_step and is_watched

    def _pause_s(self) -> float | None:
        """Time until there is something to do without a message; None: not before one comes."""
        now = time.monotonic()
        if self._single_steps or self._is_stepping(now):
            return TICK_S
        if self._has_changed and self._is_seen and self._trainer is not None:
            return max(0.0, self._sent_s + SNAPSHOT_S - now)
        return None


def _make_trainer(settings: PlaneSettings, points: PlanePoints) -> PlaneTrainer:
    from torso.playground.plane.plane_trainer import PlaneTrainer  # and torch, which takes a second or two

    return PlaneTrainer(settings, points)


def _parse_look(message: TabMessage) -> tuple[int, int] | None:
    """Read which unit is looked at: its hidden layer and its place there, from 0; None for none."""
    layer, unit = message.fields.get("layer"), message.fields.get("unit")
    if layer is None:
        return None
    return (
        whole("a unit's layer", layer, least=0, most=MOST_LAYERS - 1),
        whole("a unit", unit, least=0, most=MOST_UNITS_A_LAYER - 1),
    )


async def _call(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, work)
