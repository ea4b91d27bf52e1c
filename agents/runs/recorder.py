"""Recorder of a run: its log lines, models and checkpoints, whether an agent trains or a classifier is fitted.

It knows files and no algorithm: what there is to save is handed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torso.agents.optim.states import state_of_parts
from torso.agents.protocols import Stateful
from torso.agents.runs.checkpoints import Checkpoint, CheckpointStore, Segment
from torso.agents.runs.run_directory import RunDirectory
from torso.agents.runs.trackers import Tracker


class Recorder:
    """Recorder of a run into its directory; without a directory it records nothing, so no caller has to ask.

    Between `begin` and `close` the logs are open; they go on from the latest checkpoint, lines after it are dropped.
    """

    def __init__(self, run: RunDirectory | None) -> None:
        self.run = run
        self._tracker: Tracker | None = None
        self._position: Mapping[str, Any] | None = None  # of the logs, at the latest checkpoint

    def restore(self, load: Callable[[Checkpoint], None]) -> bool:
        """Pass the latest checkpoint to ``load``; returns whether there is one."""
        checkpoint = None if self.run is None else CheckpointStore(self.run.checkpoint).load()
        if checkpoint is None:
            return False
        load(checkpoint)
        self._position = checkpoint.state["tracker"]
        return True

    def begin(self) -> None:
        """Open the logs, and drop the summary of an earlier end."""
        if self.run is not None:
            self.run.drop_summary()
            self._tracker = Tracker(self.run.path, self._position)

    def log(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log the figures of a step (an epoch, in a fit)."""
        if self._tracker is not None:
            self._tracker.log(step, figures)

    def not_stepping(self) -> AbstractContextManager[None]:
        """Leave a block, such as an evaluation, out of the logged speed."""
        return nullcontext() if self._tracker is None else self._tracker.not_stepping()

    def checkpoint(
        self,
        step: int,
        parts: Mapping[str, Stateful],
        segments: Callable[[tuple[tuple[int, int], ...]], Sequence[Segment]] = lambda on_disk: (),
    ) -> None:
        """Write a checkpoint: the state of each part, and rows as append-only segments, given those on disk."""
        if self.run is None or self._tracker is None:
            return
        store = CheckpointStore(self.run.checkpoint)
        states, tensors = state_of_parts(parts)
        position = self._tracker.position()
        store.save(step, {"parts": states, "tracker": position}, tensors, list(segments(store.rows)))
        self._position = position

    def close(self) -> None:
        """Close the logs; a second call does nothing."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
