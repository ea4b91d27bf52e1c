"""How far a run is, on stderr: a bar on a terminal; elsewhere a line now and then, so that logs stay readable."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from torso.agents.runs.callbacks import Callback
from torso.agents.runs.events import Episode, Evaluated, Logged, Tick, TrainingEvent
from torso.agents.supervised.fitting import EpochDone, FitEvent
from torso.cli.output import say

_LINE_PERIOD_S = 5.0  # lines are at least so far apart
_SPEED_PERIOD_S = 20.0  # the speed is that of the last so many seconds: learning begins later than acting
_LOOK_PERIOD_S = 0.2  # and so are looks at a run in which nothing happened but steps


class _Display:
    """A bar where stderr is a terminal, else lines such as ``epoch 12/60  loss 0.03``.

    ``preface`` is said first, once there is something to show: a run that is refused has only its error to say.
    """

    def __init__(self, unit: str, total: int, preface: str) -> None:
        self._unit, self._total, self._preface = unit, total, preface
        self._task: TaskID | None = None
        self._said_s = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = Progress(
                TextColumn(unit),
                BarColumn(bar_width=16),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                refresh_per_second=5,
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _show(self, completed: float, figures: str, *, is_line: bool) -> None:
        """Bring the bar up to date; where there is none and the event is worth a line, say it."""
        if self._preface:
            say(self._preface)
            self._preface = ""
        if self._bar is not None:
            if self._task is None:  # now and not before: a resumed run does not begin at 0
                self._task = self._bar.add_task(figures, total=self._total, completed=int(completed))
            self._bar.update(self._task, completed=completed, description=figures)
        elif is_line and time.monotonic() - self._said_s >= _LINE_PERIOD_S:
            self._said_s = time.monotonic()
            say(f"{self._unit} {int(completed):,}/{self._total:,}  {figures}")


class TrainingProgress(_Display, Callback):
    """A training run: the return, that of greedy evaluations, speed, time left.

    As a callback it is told of steps, too, so that the bar does not wait for episodes that are long.
    """

    def __init__(self, total_steps: int, preface: str = "") -> None:
        super().__init__("step", total_steps, preface)
        self._seen: deque[tuple[int, float]] = deque()  # steps and clock, as far back as the speed is measured
        self._return: float | None = None
        self._greedy: float | None = None
        self._looked_s = -_LOOK_PERIOD_S

    def on_step(self, tick: Tick) -> None:
        """Take in that there are more steps."""
        now = time.monotonic()
        if now - self._looked_s >= _LOOK_PERIOD_S:
            self._looked_s = now
            self._show(tick.total_steps, self._figures(tick.total_steps), is_line=True)

    def on_event(self, event: TrainingEvent) -> None:
        """Take in what happened."""
        if isinstance(event, Logged):
            self._return = event.figures["episode_return"]
        elif isinstance(event, Evaluated):
            self._greedy = event.evaluation.mean
        self._show(event.total_steps, self._figures(event.total_steps), is_line=not isinstance(event, Episode))

    def _figures(self, total_steps: int) -> str:
        now = time.monotonic()
        self._seen.append((total_steps, now))
        while self._seen[0][1] < now - _SPEED_PERIOD_S and len(self._seen) > 2:
            self._seen.popleft()
        steps, seconds = total_steps - self._seen[0][0], now - self._seen[0][1]
        shown = []
        if self._return is not None:
            shown.append(f"return {self._return:,.1f}")
        if self._greedy is not None:
            shown.append(f"greedy {self._greedy:,.1f}")
        if steps and seconds:
            shown.append(f"{steps / seconds:,.0f} steps/s")
        return "  ".join(shown)


class FitProgress(_Display):
    """A fit: the training loss, how it does on validation data, time left if no epoch is spared."""

    def __init__(self, max_epochs: int, preface: str = "") -> None:
        super().__init__("epoch", max_epochs, preface)
        self._figures = ""

    def on_event(self, event: FitEvent) -> None:
        """Take in what happened."""
        if isinstance(event, EpochDone):
            self._figures = f"loss {event.loss:.4f}"
            if event.validation is not None:
                self._figures += f"  validation {event.validation.text()}"
            self._show(event.epoch, self._figures, is_line=True)
        else:
            self._show(event.epoch - 1 + event.batch / event.num_batches, self._figures, is_line=False)
