"""Episode state of a stream: the last frame stack, the recurrent state and the exploration's generator.

A request that fails changes nothing: an episode is as it was after the last request that was answered.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from torso.arrays import Array, ArrayState
from torso.errors import InputError, OverloadedError, WrongKindError
from torso.image_spec import ATARI_STACK
from torso.nets import Predictor
from torso.nets.prediction.atari_frames import SIZE, WIDTH, preprocess, stack
from torso.serve.inference.state_records import StateRecords
from torso.serve.services.callers import Caller

_ACCEPTED = (
    f"uint8 {list(ATARI_STACK)}, its newest frame alone {[SIZE, SIZE]}, "
    f"or a step's last two raw ones [2, H, {WIDTH}, 3]"
)

EPISODE_BYTES = 1024  # of an episode without its observation and state: objects, and a generator


class ServedEpisode:
    """State of one episode. seed: of its exploration's generator; None: the system's entropy. size: its bytes."""

    __slots__ = ("_observation", "_rng", "_seed", "_state", "size")

    def __init__(self, seed: int | None = None, size: int = EPISODE_BYTES) -> None:
        self.size = size
        self._seed = seed
        self._rng: np.random.Generator | None = None
        self._observation: Array | None = None  # the last one, where the model's observations are stacks of frames
        self._state: ArrayState = ()  # of a recurrent model, [1, ...] each; () at the episode's start

    def prepare(self, predictor: Predictor, got: Array) -> Array:
        """Convert an observation to the model's input, [1, *shape]; the episode's state does not change.

        got: one observation of the model's own shape and dtype or, for stacks of frames, their newest one, [84, 84], or
        a step's last two raw ones, [2, H, 160, 3]; where the model has an observation space, a value of that, too.
        Raises InputError.
        """
        spec = predictor.input
        if spec.is_atari_stack and got.shape != spec.shape and got.dtype == np.uint8:
            return stack(self._observation, _newest_frame(got))[np.newaxis]
        if got.shape != spec.shape and predictor.observation_space is None:
            expected = _ACCEPTED if spec.is_atari_stack else f"{spec.dtype} {list(spec.shape)}"
            raise InputError("observation.shape", expected=expected, got=f"{got.dtype} {list(got.shape)}")
        return predictor.prepare(got[np.newaxis], strict=True, field="observation")

    def pack(self, records: StateRecords, prepared: Array) -> Array:
        """Encode a prepared observation with the episode's recurrent state, [1] records.

        Raises WrongKindError where that state does not fit, as another version of the model may be served by now.
        """
        try:
            return records.pack(prepared, self._state)
        except InputError as error:
            raise WrongKindError(f"the episode cannot go on: its {error}; begin it anew with `start`") from error

    def advance(
        self,
        predictor: Predictor,
        prepared: Array,
        readout: NDArray[np.float32],
        epsilon: float,
        state: ArrayState = (),
    ) -> int:
        """Advance by one step: store the prepared observation, and choose the env's action by its readout, [1, A].

        state: the next recurrent state, [1, ...] each, where the model has one. With probability ``epsilon`` the action
        is drawn uniformly. The draws are those of `Predictor.act` with the episode's seed.
        """
        if predictor.input.is_atari_stack:
            self._observation = prepared[0]
        self._state = state
        if epsilon > 0 and self._rng is None:
            self._rng = np.random.default_rng(self._seed)
        return int(predictor.explore(predictor.greedy(readout), epsilon, self._rng)[0])


def episode_bytes(predictor: Predictor) -> int:
    """Return the bytes of an episode of a model: the last stack of frames, or a recurrent state."""
    stack_bytes = math.prod(predictor.input.shape) if predictor.input.is_atari_stack else 0
    return EPISODE_BYTES + stack_bytes + sum(part.nbytes for part in predictor.initial_state)


class EpisodeRoom:
    """Room for what the episodes of all streams hold, in bytes. A limited caller takes no more than it leaves free."""

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit = limit_bytes
        self._by_caller: Counter[str] = Counter()  # of limited callers

    def take(self, caller: Caller, size: int) -> None:
        """Take so many bytes; OverloadedError where they are not free."""
        free = self._limit - self.held_bytes - size
        held = self._by_caller[caller.key] + size if caller.limited else 0
        if free < 0 or held > free:
            raise OverloadedError(
                f"episodes hold {self.held_bytes} of {self._limit} bytes: no room for {size} more; end some"
            )
        self._add(caller, size)

    def give_back(self, caller: Caller, size: int) -> None:
        """Free bytes that were taken."""
        self._add(caller, -size)

    def _add(self, caller: Caller, size: int) -> None:
        self.held_bytes += size
        if caller.limited:
            self._by_caller[caller.key] += size
            if not self._by_caller[caller.key]:
                del self._by_caller[caller.key]


class Episodes:
    """Episodes of one stream, by the numbers that its client chose. They take room until they end, or `close`."""

    def __init__(self, max_episodes: int, room: EpisodeRoom, caller: Caller) -> None:
        self._max_episodes = max_episodes
        self._room = room
        self._caller = caller
        self._held: dict[int, ServedEpisode] = {}
        self._starting: set[int] = set()

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def acquire(
        self, number: int, *, start: bool, seed: int | None = None, size: int = EPISODE_BYTES
    ) -> Iterator[ServedEpisode]:
        """Acquire a request's episode while it is answered; one request at a time for each number.

        A new episode, of so many bytes, is stored, in place of an older one of its number, only where the block ends
        without an error. Raises OverloadedError where the stream holds its most episodes or there is no room,
        WrongKindError for an unknown number, InputError for a seed without a start.
        """
        if not start:
            if seed is not None:
                raise InputError("seed", expected="unset but where an episode starts", got=f"{seed} without `start`")
            episode = self._held.get(number)
            if episode is None:
                raise WrongKindError(f"episode {number} is unknown to this stream: begin it with `start`")
            yield episode
            return
        if number not in self._held and len(self._held) + len(self._starting) >= self._max_episodes:
            raise OverloadedError(f"this stream holds {self._max_episodes} episodes, the most that one may: end some")
        if number not in self._held:
            self._starting.add(number)
        try:
            self._room.take(self._caller, size)
            unused = size  # of the new one where it fails, else of the one before
            try:
                started = ServedEpisode(seed, size)
                yield started
                before = self._held.get(number)
                unused = 0 if before is None else before.size
                self._held[number] = started
            finally:
                self._room.give_back(self._caller, unused)
        finally:
            self._starting.discard(number)

    def end(self, number: int) -> None:
        """Remove an episode, if it is known."""
        episode = self._held.pop(number, None)
        if episode is not None:
            self._room.give_back(self._caller, episode.size)

    def close(self) -> None:
        """Remove all episodes."""
        for number in list(self._held):
            self.end(number)


def _newest_frame(got: Array) -> Array:
    if got.shape == (SIZE, SIZE):
        return got
    if got.ndim != 4 or (got.shape[0], *got.shape[2:]) != (2, WIDTH, 3) or got.shape[1] < SIZE:
        raise InputError("observation.shape", expected=_ACCEPTED, got=f"{got.dtype} {list(got.shape)}")
    return preprocess(got)
