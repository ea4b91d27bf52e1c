"""Events of a training run as JSON lines, and the newest network on disk: a callback that only reads."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from torso.agents.optim.schedules import multiples_passed
from torso.agents.protocols import Episode
from torso.agents.runs.callbacks import Callback
from torso.agents.runs.events import Checkpointed, Evaluated, Logged, Tick, TrainingEvent

if TYPE_CHECKING:
    from torso.agents.training.driver import Training

PERIOD_S = 0.1  # between two lines of steps
NETWORK_PERIOD_S = 2.0  # between two networks
NUM_NETWORKS = 3  # which stay on disk: a reader has a while for the newest


class EventLines(Callback):
    """Writer of events, a line each. A reader that has gone changes nothing of the run.

    networks: a directory for the newest networks, which is removed by `close`.
    """

    _training: Training  # from `begin` on

    def __init__(self, lines: TextIO, networks: Path, *, network_period_s: float = NETWORK_PERIOD_S) -> None:
        self._lines = lines
        self._networks = networks
        self._network_period_s = network_period_s
        self._total = 0
        self._episodes: list[tuple[int, float]] = []
        self._written_s = -math.inf
        self._network_s = -math.inf
        self._num_networks = 0

    def write(self, type: str, **fields: Any) -> None:
        """Write a line."""
        line = json.dumps({"type": type, **fields})
        try:
            self._lines.write(f"{line}\n")
            self._lines.flush()
        except OSError:  # the playground was killed; the end of the standard input stops the run
            pass

    def begin(self, training: Training, total: int) -> None:
        """Begin with the training, restored where it is resumed, and its first network."""
        self._training, self._total = training, total
        shutil.rmtree(self._networks, ignore_errors=True)  # of a run that was killed
        learns = training.session.core.num_updates > 0
        self.write("began", step=training.total_steps, total=total, learns=learns)
        self._save_network()

    def close(self) -> None:
        """Remove the networks."""
        shutil.rmtree(self._networks, ignore_errors=True)

    def on_step(self, tick: Tick) -> None:
        """Write the steps now and then; say that an evaluation begins; save the network now and then."""
        config, now = self._training.config, time.monotonic()
        period = config.evaluation_period
        is_due = period is not None and bool(multiples_passed(tick.steps_before, tick.total_steps, period))
        if is_due or now - self._written_s >= PERIOD_S:
            self._write_steps(tick.total_steps)
        if is_due:
            self.write("evaluating", step=tick.total_steps)
        elif now - self._network_s >= self._network_period_s:
            self._save_network()

    def on_event(self, event: TrainingEvent) -> None:
        """Write an event of the driver."""
        if isinstance(event, Episode):
            self._episodes.append((event.total_steps, event.episode_return))
            return
        self._write_steps(event.total_steps)
        if isinstance(event, Logged):
            self.write("figures", step=event.total_steps, **_finite(event.figures))
        elif isinstance(event, Evaluated):
            found = event.evaluation
            self.write(
                "evaluation",
                step=event.total_steps,
                **_finite({"mean": found.mean, "low": min(found.returns), "high": max(found.returns)}),
                is_best=event.is_best,
            )
            self._save_network()
        elif isinstance(event, Checkpointed):
            self.write("checkpoint", step=event.total_steps)
            if self._training.is_done(self._total):
                self.write("scoring")

    def _write_steps(self, step: int) -> None:
        self._written_s = time.monotonic()
        episodes, self._episodes = self._episodes, []
        learns = self._training.session.core.num_updates > 0
        self.write("steps", step=step, learns=learns, episodes=[[at, _number(total)] for at, total in episodes])

    def _save_network(self) -> None:
        """Save the network as it is now, for whoever watches the agent."""
        path = self._networks / str(self._num_networks)
        self._training.save(path, best=False, onnx=False)
        self._num_networks += 1
        shutil.rmtree(self._networks / str(self._num_networks - 1 - NUM_NETWORKS), ignore_errors=True)
        self.write("network", step=self._training.total_steps, path=str(path))
        self._network_s = time.monotonic()


def _number(value: float) -> float | None:
    """Return a float of JSON; null where it is not finite, as in progress.jsonl."""
    return float(value) if math.isfinite(value) else None


def _finite(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else _number(value) for name, value in figures.items()}
