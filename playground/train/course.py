"""Course of a run as a tab shows it: its phase, its figures and its curves, made of the training's events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torso.playground.train.short_runs import ALGORITHMS, title_of

Phase = Literal["starting", "collecting", "learning", "evaluating", "scoring", "stopping", "stopped", "done", "failed"]
ENDS: tuple[Phase, ...] = ("stopped", "done", "failed")
SPEED_WINDOW_S = 6.0
MOST_EPISODES = 2_000  # which wait for a tab; the older ones are left out
MOST_POINTS = 1_000  # of a curve that is read from a directory

Point = list[float | int | bool | None]


@dataclass
class TrainingCourse:
    """Course of one run. ``figures`` are [step, mean return, loss]; ``evaluations`` [step, mean, lowest, highest]."""

    name: str
    path: str
    env: str
    algorithm: str
    seed: int
    total: int
    command: str = ""
    phase: Phase = "starting"
    text: str = ""
    step: int = 0
    epsilon: float | None = None
    mean: float | None = None
    best: tuple[float, int] | None = None
    figures: list[Point] = field(default_factory=list)
    evaluations: list[Point] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    revision: int = 0
    """Number of times that points were taken out of the curves."""

    def __post_init__(self) -> None:
        self._episodes: deque[Point] = deque(maxlen=MOST_EPISODES)
        self._history: deque[tuple[float, int]] = deque()
        self._learns = False
        self._is_on_disk = False
        self._last_rate: float | None = None

    def apply(self, event: Mapping[str, Any]) -> None:
        """Take an event of the training."""
        kind = event["type"]
        self.step = int(event.get("step", self.step))
        if kind == "began":
            self._begin(event)
        elif kind == "steps":
            self._learns |= event["learns"]
            self._episodes.extend(event["episodes"])
            self._to_phase("learning" if self._learns else "collecting")
            self._time_step()
        elif kind == "figures":
            self._take_figures(event)
        elif kind == "evaluating":
            self._to_phase("evaluating")
        elif kind == "evaluation":
            self._take_evaluation(self.step, event["mean"], event["low"], event["high"], is_best=event["is_best"])
            self._to_phase("learning" if self._learns else "collecting")
            self._history.clear()  # no steps were made meanwhile
        elif kind == "scoring":
            self._to_phase("scoring")
        elif kind in ENDS:
            self.end(kind, self._ending(event))

    def end(self, phase: Phase, text: str) -> None:
        """End, in words."""
        self.phase, self.text = phase, text
        self._history.clear()

    def stop(self) -> None:
        """Say that it was asked to stop."""
        if self.phase not in ENDS:
            self.phase = "stopping"

    def read(self, lines: Sequence[Mapping[str, Any]], until_step: int | None = None) -> None:
        """Take the lines of progress.jsonl, up to a step that the run goes on from."""
        self._is_on_disk = True
        for line in lines:
            if until_step is not None and line["step"] > until_step:
                break
            self.step = int(line["step"])
            if "evaluation_return" in line:
                low, high = line.get("evaluation_min"), line.get("evaluation_max")
                self._take_evaluation(
                    self.step, line["evaluation_return"], low, high, is_best=bool(line.get("is_best"))
                )
            else:
                self._take_figures(line)
        self.figures = self.figures[:: max(1, len(self.figures) // MOST_POINTS)]
        self.evaluations = self.evaluations[:: max(1, len(self.evaluations) // MOST_POINTS)]
        if until_step is not None:
            self.step = until_step

    def take_episodes(self) -> list[Point]:
        """Return the episodes since the last call, [step, return]."""
        episodes = list(self._episodes)
        self._episodes.clear()
        return episodes

    def to_json(self) -> dict[str, Any]:
        """Describe the run as it is now, without its curves."""
        rate = self._rate()
        return {
            "name": self.name,
            "path": self.path,
            "title": title_of(self.env),
            "algorithm": ALGORITHMS.get(self.algorithm, self.algorithm),
            "seed": self.seed,
            "command": self.command,
            "phase": self.phase,
            "text": self.text or self._phase_text(),
            "step": self.step,
            "total": self.total,
            "rate": rate,
            "remaining_s": None if not rate else max(0, self.total - self.step) / rate,
            "epsilon": self.epsilon,
            "mean": self.mean,
            "best": self.best,
            "can_resume": self._is_on_disk and self.phase in ("stopped", "failed"),
        }

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.total, self._learns, self._is_on_disk = int(event["total"]), bool(event["learns"]), True
        for curve in (self.figures, self.evaluations):  # lines after the checkpoint are made again
            curve[:] = [point for point in curve if (point[0] or 0) <= self.step]
        self.revision += 1
        self._to_phase("learning" if self._learns else "collecting")
        self._time_step()

    def _to_phase(self, phase: Phase) -> None:
        if self.phase != "stopping":
            self.phase = phase

    def _take_figures(self, figures: Mapping[str, Any]) -> None:
        self.epsilon = figures.get("epsilon", self.epsilon)
        self.mean = figures.get("episode_return", self.mean)
        self.figures.append([self.step, figures.get("episode_return"), figures.get("loss")])

    def _take_evaluation(
        self, step: int, mean: float | None, low: float | None, high: float | None, *, is_best: bool
    ) -> None:
        self.evaluations.append([step, mean, low, high])
        if is_best and mean is not None:
            self.best = (mean, step)

    def _time_step(self) -> None:
        now = self.clock()
        self._history.append((now, self.step))
        while len(self._history) > 2 and self._history[0][0] < now - SPEED_WINDOW_S:
            self._history.popleft()

    def _rate(self) -> float | None:
        """Steps per second, lately; while it does not step, as before."""
        if self.phase in ENDS:
            return None
        if len(self._history) > 1 and self._history[-1][0] > self._history[0][0]:
            (first_s, first), (last_s, last) = self._history[0], self._history[-1]
            self._last_rate = (last - first) / (last_s - first_s)
        return self._last_rate

    def _phase_text(self) -> str:
        return {
            "starting": "starting a training process",
            "collecting": "collecting first experience, at random",
            "learning": "learning",
            "evaluating": "evaluating: greedy episodes that it does not learn from",
            "scoring": "scoring the best network on fresh episodes",
            "stopping": "stopping: a checkpoint is written first",
        }.get(self.phase, self.phase)

    def _ending(self, event: Mapping[str, Any]) -> str:
        if event["type"] == "failed":
            return str(event["text"])
        if event["type"] == "stopped":
            return f"stopped at step {self.step:,}; it can go on from there"
        if event["mean"] is None:
            return event["warning"] or "done"
        warning = f"; {event['warning']}" if event["warning"] else ""
        return (
            f"done: mean return {event['mean']:,.1f} over {event['num_episodes']} fresh episodes, by the network of "
            f"step {event['best_step']:,}{warning}"
        )
