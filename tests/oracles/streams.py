"""Random streams of steps of envs in NEXT_STEP mode, for a replay ring and for its oracle alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from transitions import WholeTransitions

from torso.agents.replay.ring import ReplayRing

NUM_ACTIONS = 3


@dataclass
class Stream:
    """Stream of steps to a ring and its oracle. No two frames are equal, and none is 0; it stacks frames as envs do."""

    ring: ReplayRing
    oracle: WholeTransitions
    count: int = 0

    def __post_init__(self) -> None:
        self.begin()

    @property
    def num_envs(self) -> int:
        return self.ring.num_envs

    def begin(self) -> None:
        self.is_reset = np.zeros(self.num_envs, dtype=bool)
        self.stacks = np.zeros((self.num_envs, self.ring.frame_stack, 1))
        self.observe(np.ones(self.num_envs, dtype=bool))

    def observe(self, is_first: np.ndarray) -> None:
        self.count += self.num_envs
        frames = np.arange(self.count, self.count + self.num_envs, dtype=np.float64)
        self.stacks[is_first] = 0.0
        self.stacks = np.concatenate([self.stacks[:, 1:], frames[:, None, None]], axis=1)
        self.frames = frames
        self.mask = (frames[:, None] + np.arange(NUM_ACTIONS)) % NUM_ACTIONS != 0 if self.ring.has_masks else None

    @property
    def obs(self) -> np.ndarray:
        return self.stacks if self.ring.frame_stack > 1 else self.stacks[:, 0]

    def tick(self, ends: list[str]) -> None:
        """Append a step of each env; ``ends`` says how: '' (goes on), a lost li'v'e, 't'erminated, 'l'imit or 'tl'.

        An env that resets ignores it.
        """
        lost, terminated, truncated = (np.array([c in end for end in ends]) & ~self.is_reset for c in "vtl")
        action = (self.frames % 7).astype(np.int64)
        reward = (self.frames % 17 - 8) / 4  # also beyond [-1, 1]
        row = (self.obs, action, reward, terminated | lost, truncated, self.is_reset, self.mask)
        self.ring.append(*row)
        self.oracle.append(*row)
        was_reset, self.is_reset = self.is_reset, terminated | truncated
        self.observe(was_reset)

    def cut(self) -> None:
        self.ring.end_episodes(self.obs, self.mask)
        self.oracle.end_episodes(self.obs, self.mask)
        self.begin()

    def abandon(self) -> None:
        self.ring.break_off()
        self.oracle.break_off()
        self.begin()

    def play(self, events: list[Any]) -> Stream:
        for event in events:
            if event == "cut":
                self.cut()
            elif event == "abandon":
                self.abandon()
            else:
                self.tick(event)
        return self


def make_ring(
    capacity_rows: int,
    num_envs: int,
    shape: tuple[int, ...] = (1,),
    dtype: str = "float64",
    **settings: Any,
) -> ReplayRing:
    return ReplayRing(capacity_steps=capacity_rows * num_envs, num_envs=num_envs, shape=shape, dtype=dtype, **settings)


def make_stream(capacity_rows: int, num_envs: int, frame_stack: int = 1, num_actions: int | None = None) -> Stream:
    shape = (frame_stack, 1) if frame_stack > 1 else (1,)
    ring = make_ring(capacity_rows, num_envs, shape, frame_stack=frame_stack, num_actions=num_actions)
    return Stream(ring, WholeTransitions(capacity_rows, num_envs, frame_stack))


@st.composite
def events(draw: st.DrawFn, num_envs: int, max_size: int) -> list[Any]:
    """Draw events, tick by tick; long streams are as likely as short ones."""
    ends = st.sampled_from(["", "", "", "", "v", "v", "t", "l", "tl"])
    ticks = st.lists(ends, min_size=num_envs, max_size=num_envs)
    size = draw(st.integers(0, max_size))
    return draw(st.lists(st.one_of(*[ticks] * 8, st.sampled_from(["cut", "abandon"])), min_size=size, max_size=size))


@st.composite
def played(draw: st.DrawFn, max_size: int = 40) -> Stream:
    """Draw a ring and its oracle after a random stream: envs, stacks, masks or none, wraps."""
    num_envs, frame_stack = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    num_actions = draw(st.sampled_from([None, NUM_ACTIONS]))
    stream = make_stream(draw(st.integers(3, 14)), num_envs, frame_stack, num_actions)
    return stream.play(draw(events(num_envs, max_size)))
