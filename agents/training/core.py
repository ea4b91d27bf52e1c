"""Training core: collect, store, learn what is due; the same for every algorithm.

It is a generator, so logging, evaluation and checkpoints are outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torso.agents.protocols import Collected, Collector, Episode, Experience, Learner, Stateful, Update
from torso.agents.runs.events import Tick

if TYPE_CHECKING:
    from torch import Tensor


class TrainingCore:
    """A collector, the experience that it fills, and the learner that learns from it."""

    def __init__(self, collector: Collector, experience: Experience[Any], learner: Learner[Any]) -> None:
        self.collector = collector
        self.experience = experience
        self.learner = learner

    @property
    def total_steps(self) -> int:
        """Steps made so far."""
        return self.collector.total_steps

    @property
    def num_updates(self) -> int:
        """Number of updates so far, as the log has it."""
        return self.learner.num_updates

    def parts(self) -> dict[str, Stateful]:
        """Parts of a checkpoint by name, in the order in which they are restored."""
        return {"learner": self.learner, "experience": self.experience, "collector": self.collector}

    def begin(self) -> None:
        """Begin a segment: build new envs and reset them with the seeds of this step."""
        self.experience.break_off()  # in case the previous segment was abandoned without a cut
        self.collector.begin()

    def cut(self, *, goes_on: bool = True) -> tuple[Episode, ...]:
        """Truncate all unfinished episodes, as a time limit would; returns those that were cut.

        Checkpoints do this. New episodes begin at once where the run ``goes_on``, else at its next `begin`.
        """
        episodes = self.collector.unfinished()
        self.experience.cut(*self.collector.last())
        if goes_on:
            self.begin()
        else:
            self.close()
        return episodes

    def close(self) -> None:
        """Close the envs."""
        self.collector.close()

    def wait(self) -> None:
        """Wait until nothing is being learnt, before the learner is read: here learning is over when a tick is."""

    def settle(self) -> tuple[Mapping[str, Tensor], ...]:
        """Wait before a checkpoint; returns the metrics of updates that no tick has told of: here none."""
        return ()

    def run(self, until_steps: int) -> Iterator[Tick]:
        """Yield one tick at a time until at least ``until_steps`` steps were made in all, and the rollout is full."""
        experience, learner = self.experience, self.learner
        for before, after, rows, episodes in self._collect(until_steps):
            experience.append(rows)
            learner.observe(rows)
            updates: list[Update] = []
            for due in experience.due(before, after, learner.changes(before, after)):
                learner.advance(due.step, due.now)
                batch = experience.sample(due)
                update = learner.update(batch)
                if update.priority is not None:
                    experience.feedback(batch, update.priority)
                updates.append(update)
            learner.advance(after, after)
            yield Tick(before, after, episodes, tuple(update.metrics for update in updates))

    def _collect(self, until_steps: int) -> Iterator[Collected]:
        yield from self.collector.collect(until_steps)
        while not self.experience.settled:
            yield from self.collector.collect(self.total_steps + 1)
