"""Training core that learns from a rollout while the next one is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from torso.agents.optim.devices import torch_threads
from torso.agents.protocols import Collector, Due, Experience, Learner, Update
from torso.agents.runs.events import Tick
from torso.agents.training.core import TrainingCore
from torso.agents.value_based.learner import PolicyApart


class OverlappedCore(TrainingCore):
    """Core whose learner works in a thread of its own, while the network acts with weights of one rollout before.

    The order is fixed, whoever is faster: at a rollout's end the learning from the one before is waited for, its
    weights go over to what acts, and the learning from the new one begins. After a checkpoint the network acts with
    the latest weights. So bits do not depend on time, and a run that was killed goes on with the same.

    policy: the collector's, which has weights of its own. num_threads: torch's, of both together; acting has
    one of them, and learning the others, but at least one.
    """

    def __init__(
        self,
        collector: Collector,
        experience: Experience[Any],
        learner: Learner[Any],
        *,
        policy: PolicyApart,
        num_threads: int,
    ) -> None:
        super().__init__(collector, experience, learner)
        self._policy = policy
        self._learning_threads = max(1, num_threads - 1)
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[Update] | None = None
        self._finished: list[Update] = []  # and not yet told
        self._told = 0  # updates, before those

    @property
    def num_updates(self) -> int:
        """Number of updates that were told of."""
        return self._told if self._finished or self._pending is not None else self.learner.num_updates

    def begin(self) -> None:
        """Begin a segment, and act with the latest weights."""
        self.wait()
        self._policy.refresh()
        super().begin()

    def close(self) -> None:
        """Close the envs, and end the thread once it has learnt."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
            super().close()

    def run(self, until_steps: int) -> Iterator[Tick]:
        """Yield one tick at a time, as `TrainingCore.run`; an update is told of at the end of the next rollout."""
        with torch_threads(1):
            for before, after, rows, episodes in self._collect(until_steps):
                self.experience.append(rows)
                updates: tuple[Mapping[str, Tensor], ...] = ()
                for due in self.experience.due(before, after, ()):
                    updates += self.settle()
                    self._learn(due)
                yield Tick(before, after, episodes, updates)

    def wait(self) -> None:
        """Wait until what was begun is learnt; raises what was raised there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._finished.append(pending.result())

    def settle(self) -> tuple[Mapping[str, Tensor], ...]:
        """Wait, and return the metrics of the updates that were not told yet."""
        self.wait()
        finished, self._finished = self._finished, []
        return tuple(update.metrics for update in finished)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle is made of, once nothing is being learnt; its thread is one of its own."""
        self.wait()
        return {**self.__dict__, "_thread": None}

    def _learn(self, due: Due) -> None:
        self._policy.refresh()
        batch = self.experience.sample(due)
        self.learner.advance(due.step, due.now)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                1, "learning", initializer=torch.set_num_threads, initargs=(self._learning_threads,)
            )
        self._told = self.learner.num_updates
        self._pending = self._thread.submit(self.learner.update, batch)
