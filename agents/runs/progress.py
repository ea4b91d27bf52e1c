"""Progress display on stderr: a progress bar on a terminal; elsewhere a line every few seconds."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from torso.agents.protocols import Episode
from torso.agents.runs.callbacks import Callback
from torso.agents.runs.events import Evaluated, Logged, Tick, TrainingEvent

_LINE_PERIOD_S = 5.0  # minimum time between two lines
_SPEED_WINDOW_S = 20.0  # speed is averaged over this window: learning begins later than acting
_REFRESH_PERIOD_S = 0.2  # minimum time between two refreshes while there are steps but no events


class ProgressDisplay:
    """Progress bar where stderr is a terminal, else lines such as ``epoch 12/60  loss 0.03``.

    ``preface`` is printed before the first progress: a run that fails to start prints only its error. ``shows_end``:
    the last line is printed even where the one before it is not old enough.
    """

    def __init__(self, unit: str, total: int, preface: str, *, shows_end: bool) -> None:
        self._shows_end, self._held_back = shows_end, ""
        self._unit, self._total, self._preface = unit, total, preface
        self._task: TaskID | None = None
        self._last_line_s = time.monotonic()
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
        elif self._shows_end and self._held_back:
            _write_line(self._held_back)

    def show(self, completed: float, figures: str, *, is_line: bool) -> None:
        """Update the bar; without a bar, print a line if ``is_line`` and the last line is old enough."""
        if self._preface:
            _write_line(self._preface)
            self._preface = ""
        if self._bar is not None:
            if self._task is None:  # created at the first update: a resumed run does not begin at 0
                self._task = self._bar.add_task(figures, total=self._total, completed=int(completed))
            self._bar.update(self._task, completed=completed, description=figures)
        elif is_line:
            self._held_back = f"{self._unit} {int(completed):,}/{self._total:,}  {figures}"
            if time.monotonic() - self._last_line_s >= _LINE_PERIOD_S:
                self._last_line_s = time.monotonic()
                _write_line(self._held_back)
                self._held_back = ""


def _write_line(text: str) -> None:
    sys.stderr.write(f"{text}\n")  # looked up at each call: a bar replaces sys.stderr
    sys.stderr.flush()


class TrainingProgress(ProgressDisplay, Callback):
    """Progress of a training run: episode return, greedy evaluation return, speed, time left.

    It is a callback as well, so that it is notified of each step and long episodes do not stall the bar.
    """

    def __init__(self, total_steps: int, preface: str = "", *, shows_end: bool = False) -> None:
        super().__init__("step", total_steps, preface, shows_end=shows_end)
        self._history: deque[tuple[int, float]] = deque()  # steps and clock, over the speed window
        self._return: float | None = None
        self._greedy_return: float | None = None
        self._last_refresh_s = -_REFRESH_PERIOD_S

    def on_step(self, tick: Tick) -> None:
        """Update the display with the number of steps."""
        now = time.monotonic()
        if now - self._last_refresh_s >= _REFRESH_PERIOD_S:
            self._last_refresh_s = now
            self.show(tick.total_steps, self._figures(tick.total_steps), is_line=True)

    def on_event(self, event: TrainingEvent) -> None:
        """Update the display with an event."""
        if isinstance(event, Logged):
            self._return = event.figures["episode_return"]
        elif isinstance(event, Evaluated):
            self._greedy_return = event.evaluation.mean
        self.show(event.total_steps, self._figures(event.total_steps), is_line=not isinstance(event, Episode))

    def _figures(self, total_steps: int) -> str:
        now = time.monotonic()
        self._history.append((total_steps, now))
        while self._history[0][1] < now - _SPEED_WINDOW_S and len(self._history) > 2:
            self._history.popleft()
        steps, seconds = total_steps - self._history[0][0], now - self._history[0][1]
        shown = []
        if self._return is not None:
            shown.append(f"return {self._return:,.1f}")
        if self._greedy_return is not None:
            shown.append(f"greedy {self._greedy_return:,.1f}")
        if steps and seconds:
            shown.append(f"{steps / seconds:,.0f} steps/s")
        return "  ".join(shown)
