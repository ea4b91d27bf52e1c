"""Interfaces of the training core: what acts, explores, collects, stores and learns.

The driver (`agents/training/core.py`) knows these alone, so an algorithm is a choice of implementations. Shapes: E
envs, A actions, n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from torso.nets.specs.registry import State

Json = Mapping[str, Any]
B = TypeVar("B")
R = TypeVar("R")
B_contra = TypeVar("B_contra", contravariant=True)


class Stateful(Protocol):
    """A part of a checkpoint, which is a mapping of names to these."""

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the state as JSON and tensors."""
        ...

    def restore(self, state: Json, tensors: Mapping[str, Tensor]) -> None:
        """Load what `state` returned; CheckpointError when it is of another run."""
        ...


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A finished training episode. ``episode_return`` is the sum of the env's own rewards.

    ``was_cut``: a checkpoint truncated it, not the env.
    """

    total_steps: int
    env: int
    episode_return: float
    length_steps: int
    was_cut: bool = False


class StepRows(NamedTuple):
    """One step of every env.

    ``terminated`` is the learner's end (the env's, or a lost life); the env's end shows in the next rows' ``is_reset``.
    """

    obs: Array  # [E, *shape]
    action: NDArray[np.int64]  # [E], counted from 0
    reward: NDArray[Any]  # [E]
    terminated: NDArray[np.bool_]  # [E]
    truncated: NDArray[np.bool_]  # [E]
    is_reset: NDArray[np.bool_]  # [E]: under next-step autoreset this row is no transition
    mask: NDArray[np.bool_] | None  # [E, A], the legal actions in obs; None: all
    next_obs: Array  # [E, *shape]
    state: State = ()  # the network's before the step, [E, ...] each; empty where it is not recurrent
    next_mask: NDArray[np.bool_] | None = None  # [E, A], the legal actions in next_obs
    values: Tensor | None = None  # [E, A], by which the actions were chosen; None where every env explored


class Collected(NamedTuple):
    """One tick: steps before and after it, its rows, the episodes that ended in it."""

    before: int
    after: int
    rows: StepRows
    episodes: tuple[Episode, ...]


class Due(NamedTuple):
    """Learning that is due: ``phases``, as of ``step`` for target copies and of ``now`` (the tick's end) for rates."""

    step: int
    now: int
    phases: int


class Update(NamedTuple):
    """Result of an update: metrics, and the priority of each row, float32 [n], or None where there are none."""

    metrics: Mapping[str, Tensor]
    priority: Tensor | None


class Executor(Protocol):
    """Way to run a minibatch's update: as it stands, as a captured graph, or with gradients averaged over devices."""

    @property
    def captures(self) -> bool:
        """Whether calls are captured: all of a minibatch is then best one call, and optimizers must be capturable."""
        ...

    def prepare(self, call: Callable[[B], R], example: B, generators: Sequence[Generator]) -> Callable[[B], R]:
        """Return what runs ``call`` on minibatches that are shaped like ``example``, with the same results.

        generators: those that it draws from. What it returns must not be overwritten by the next call.
        """
        ...


class Policy(Stateful, Protocol):
    """Action values of observations, for acting. A noisy network draws once a call, from a generator of its own."""

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        ...

    def initial_state(self, num_envs: int) -> State:
        """Network's state at the start of episodes, [E, ...] each; empty where it is not recurrent."""
        ...

    def values(self, obs: Array, state: State = ()) -> tuple[Tensor, State]:
        """Action values [E, A] and the next state, without gradient, on the policy's device. obs: [E, *shape] raw."""
        ...


class Explorer(Stateful, Protocol):
    """Choice of actions by values: epsilon-greedy, for example."""

    def choose(
        self,
        values: Callable[[], Tensor],
        mask: NDArray[np.bool_] | None,
        *,
        num_envs: int,
        num_actions: int,
        step: int,
    ) -> NDArray[np.int64]:
        """Choose an action for each env, int64 [E], counted from 0.

        ``values`` is called at most once, and not at all where every env explores. step: the total before this act.
        """
        ...

    def figures(self, step: int) -> Mapping[str, float]:
        """Figures for the log at a step, such as epsilon."""
        ...


class Collector(Stateful, Protocol):
    """Steps of envs with a policy's values and an explorer's choices."""

    total_steps: int

    def begin(self) -> None:
        """Build new envs and reset them with the seeds of this step."""
        ...

    def collect(self, until_steps: int) -> Iterator[Collected]:
        """Step the envs until at least ``until_steps`` steps were made in all."""
        ...

    def last(self) -> tuple[Array, NDArray[np.bool_] | None]:
        """Return the latest observations [E, *shape] and their masks, which no row holds yet."""
        ...

    def figures(self) -> Mapping[str, float]:
        """Figures of acting for the log at this step, such as epsilon."""
        ...

    def unfinished(self) -> tuple[Episode, ...]:
        """Return the episodes in progress in which an action was taken, as a cut would end them."""
        ...

    def close(self) -> None:
        """Close the envs."""
        ...


class Experience(Stateful, Protocol[B]):
    """Rows in, batches out."""

    @property
    def settled(self) -> bool:
        """Whether a checkpoint may come here: always for a replay, at its end for a rollout."""
        ...

    @property
    def keeps_rows(self) -> bool:
        """Whether rows are kept and learnt from again, as in a replay."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether legal actions are stored."""
        ...

    def append(self, rows: StepRows) -> None:
        """Store one step of every env."""
        ...

    def due(self, before: int, after: int, changes: Sequence[int]) -> Sequence[Due]:
        """List the learning that is due for the steps in (before, after], in order.

        changes: the steps of target copies in there, ascending. Phases are split where a copy falls between them; a
        copy at a step comes before the phases of that step.
        """
        ...

    def sample(self, due: Due) -> B:
        """Sample all minibatches of ``due`` in one gather. A batch holds its origin, for `feedback`."""
        ...

    def feedback(self, batch: B, priority: Tensor) -> None:
        """Update the priorities of a batch's rows."""
        ...

    def cut(self, obs: Array, mask: NDArray[np.bool_] | None) -> None:
        """Truncate all unfinished episodes, whose last observations are given."""
        ...

    def break_off(self) -> None:
        """Mark the last row as not followed by the next one, after a segment that was abandoned."""
        ...


class Learner(Stateful, Protocol[B_contra]):
    """Everything that changes the weights: networks, target copies, optimizer, rates, moments of observations."""

    num_updates: int

    def policy(self) -> Policy:
        """Return what acts, with the weights of this learner."""
        ...

    def observe(self, rows: StepRows) -> None:
        """Add rows to the running moments of observations, if there are any."""
        ...

    def changes(self, before: int, after: int) -> Sequence[int]:
        """Steps of target copies in (before, after], ascending."""
        ...

    def advance(self, step: int, now: int) -> None:
        """Make the target copies up to ``step``, and set rates as of ``now``."""
        ...

    def update(self, batch: B_contra) -> Update:
        """Take a gradient step for each minibatch of a batch."""
        ...
