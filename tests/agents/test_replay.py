"""The replay ring against an oracle that stores whole transitions, over any stream of episodes, cuts and wraps."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transitions import Transition, WholeTransitions

from torso.agents.checkpoints import plan_segments
from torso.agents.replay import Batch, ReplayRing
from torso.errors import CheckpointError, ConfigError

GAMMA = 0.5


@dataclass
class Stream:
    """What envs in NEXT_STEP mode give, fed to a ring and to the oracle alike. No two observations are equal."""

    ring: ReplayRing
    oracle: WholeTransitions
    count: int = 0

    def __post_init__(self) -> None:
        self.begin()

    @property
    def num_envs(self) -> int:
        return self.ring.num_envs

    def begin(self) -> None:
        self.obs, self.is_reset = self.observe(), np.zeros(self.num_envs, dtype=bool)

    def observe(self) -> np.ndarray:
        self.count += self.num_envs
        return np.arange(self.count, self.count + self.num_envs, dtype=np.float64)[:, None]

    def tick(self, ends: list[str]) -> None:
        """A step of each env; ``ends`` says how: '' (goes on), 't'erminated, 'l'imit or 'tl'. A reset ignores it."""
        terminated = np.array(["t" in end for end in ends]) & ~self.is_reset
        truncated = np.array(["l" in end for end in ends]) & ~self.is_reset
        action = (self.obs[:, 0] % 7).astype(np.int64)
        row = (self.obs, action, self.obs[:, 0] / 4, terminated, truncated, self.is_reset)
        self.ring.append(*row)
        self.oracle.append(*row)
        self.obs, self.is_reset = self.observe(), terminated | truncated

    def cut(self) -> None:
        self.ring.end_episodes(self.obs)
        self.oracle.end_episodes(self.obs)
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


def make_ring(capacity_rows: int, num_envs: int, shape: tuple[int, ...] = (1,), dtype: str = "float64") -> ReplayRing:
    return ReplayRing(capacity_steps=capacity_rows * num_envs, num_envs=num_envs, shape=shape, dtype=dtype)


def make_stream(capacity_rows: int, num_envs: int) -> Stream:
    return Stream(make_ring(capacity_rows, num_envs), WholeTransitions(capacity_rows, num_envs))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(batch: Batch) -> list[Transition]:
    """The transitions of a batch, without the rows whose weight is 0."""
    assert set(batch.weight.tolist()) <= {0.0, 1.0}
    assert set(batch.discount_t.tolist()) <= {0.0, GAMMA}
    rows = zip(*(tensor.tolist() for tensor in batch), strict=True)
    return [Transition(tuple(s), a, r, discount == 0, tuple(s_t)) for s, a, r, discount, s_t, weight in rows if weight]


@st.composite
def played(draw: st.DrawFn) -> Stream:
    """A ring and its oracle after a random stream."""
    num_envs = draw(st.integers(1, 3))
    ticks = st.lists(st.sampled_from(["", "", "", "t", "l", "tl"]), min_size=num_envs, max_size=num_envs)
    events = draw(st.lists(st.one_of(ticks, ticks, ticks, ticks, st.sampled_from(["cut", "abandon"])), max_size=40))
    return make_stream(draw(st.integers(3, 12)), num_envs).play(events)


@given(played())
def test_samples_are_what_an_oracle_of_whole_transitions_holds(stream: Stream) -> None:
    """Nothing but true transitions, and each of them: none across an end, a cut or the write head."""
    valid = set(stream.oracle.valid.values())
    if stream.ring.num_starts == 0:
        assert not valid
        with pytest.raises(ConfigError, match="no transition"):
            stream.ring.sample(1, GAMMA, generator())
        return
    found = set(sampled(stream.ring.sample(1024, GAMMA, generator())))
    assert found == valid  # at most 33 transitions: 1,024 draws miss one less than once in 10**12


def test_a_terminated_step_has_no_future_and_a_truncated_one_goes_on_from_its_last_observation() -> None:
    ring = make_ring(8, 3)
    obs = np.array([[1.0], [2.0], [3.0]])
    last = obs + 10
    actions, no = np.array([0, 1, 2]), np.zeros(3, dtype=bool)
    terminated, truncated = np.array([True, False, False]), np.array([False, True, False])
    ring.append(obs, actions, np.array([0.5, 1.5, 2.5]), terminated, truncated, no)
    ring.append(last, actions, np.zeros(3), no, no, terminated | truncated)
    ring.append(last + 10, actions, np.zeros(3), no, no, no)
    batch = ring.sample(200, 0.99, generator())
    by_start = {row[0]: row[1:] for row in zip(*(tensor.flatten().tolist() for tensor in batch), strict=True)}
    assert set(by_start) == {1.0, 2.0, 3.0, 13.0}
    assert by_start[1.0] == pytest.approx((0, 0.5, 0.0, 11.0, 1.0))
    assert by_start[2.0] == pytest.approx((1, 1.5, 0.99, 12.0, 1.0))  # not 22, the next episode's first
    assert by_start[3.0] == pytest.approx((2, 2.5, 0.99, 13.0, 1.0))
    assert batch.a_tm1.dtype == torch.int64
    assert {batch.r_t.dtype, batch.discount_t.dtype, batch.weight.dtype} == {torch.float32}


def test_a_cut_truncates_what_is_under_way_and_nothing_else() -> None:
    stream = make_stream(8, 3)
    stream.tick(["", "t", ""])
    stream.tick(["t", "", ""])  # env 1 resets
    stream.cut()
    rows = stream.ring.read_rows(0, 3)
    assert rows["terminated"].tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert rows["truncated"].tolist() == [[False] * 3, [False, False, True], [False] * 3]
    assert rows["is_reset"].tolist() == [[False] * 3, [False, True, False], [True] * 3]


@pytest.mark.parametrize("num_envs", [1, 2])
def test_every_transition_is_as_likely_as_any_other(num_envs: int) -> None:
    """Also those beside reset rows, which a rejected draw must not favour. (Fixed seeds: it cannot fail by chance.)"""
    stream = make_stream(21, num_envs)
    ends = ["", "t", "l", "t", "", "", "", "t", "", "", "tl", "", ""]
    stream.play([[ends[i % 13], ends[(i + 5) % 11]][:num_envs] for i in range(57)])
    valid = set(stream.oracle.valid.values())
    assert 8 < len(valid) < 20 * num_envs  # some rows are reset rows
    counts = Counter(sampled(stream.ring.sample(40_000, GAMMA, generator(3))))
    assert set(counts) == valid
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_a_sample_that_finds_no_transition_weighs_nothing() -> None:
    stream = make_stream(4, 1)
    for _ in range(3):
        stream.cut()  # nothing but reset rows
    batch = stream.ring.sample(50, GAMMA, generator())
    assert batch.weight.tolist() == [0.0] * 50


@given(played(), st.data())
def test_rows_that_are_read_and_written_back_give_the_same_ring(stream: Stream, data: st.DataObject) -> None:
    ring, num_rows = stream.ring, stream.ring.num_rows
    cuts = sorted(data.draw(st.sets(st.integers(ring.first_row, num_rows), max_size=3)) | {ring.first_row, num_rows})
    copy = make_ring(ring.capacity_rows, ring.num_envs)
    for start, stop in pairwise(cuts):
        rows = ring.read_rows(start, stop)
        assert all(len(tensor) == stop - start for tensor in rows.values())
        copy.write_rows(start, rows)
    assert_same(ring, copy)


@given(st.integers(3, 9), st.integers(1, 2), st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(1, 5))
def test_segments_that_checkpoints_left_on_disk_give_the_same_ring(
    capacity_rows: int, num_envs: int, stretches: list[int], max_rows: int
) -> None:
    """Append-only segments, written when each checkpoint was taken, hold up however the ring has wrapped since."""
    stream = make_stream(capacity_rows, num_envs)
    ring, disk = stream.ring, {}
    for stretch in stretches:
        stream.play([["t" if (i + e) % 4 == 0 else "" for e in range(num_envs)] for i in range(stretch)])
        stream.cut()
        plan = plan_segments(tuple(disk), ring.first_row, ring.num_rows, max_rows)
        disk = {rows: disk[rows] if rows in disk else ring.read_rows(*rows) for rows in plan}
        restored = Stream(make_ring(capacity_rows, num_envs), stream.oracle)
        for (start, _), rows in disk.items():
            restored.ring.write_rows(start, rows)
        assert_same(ring, restored.ring)


def assert_same(ring: ReplayRing, copy: ReplayRing) -> None:
    assert (copy.num_rows, copy.first_row) == (ring.num_rows, ring.first_row)
    rows, copied = ring.read_rows(ring.first_row, ring.num_rows), copy.read_rows(copy.first_row, copy.num_rows)
    assert rows.keys() == copied.keys()
    assert all(torch.equal(rows[name], copied[name]) for name in rows)
    if ring.num_starts:
        samples, again = ring.sample(64, GAMMA, generator()), copy.sample(64, GAMMA, generator())
        assert all(torch.equal(a, b) for a, b in zip(samples, again, strict=True))


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("bool", (3,)),
        ("uint8", (2, 4, 4)),
        ("int8", (3,)),
        ("uint16", (3,)),
        ("uint32", (3,)),
        ("int64", ()),
        ("float16", (3,)),
        ("float64", (2, 2)),
    ],
)
def test_observations_of_any_dtype_and_shape_come_back_as_they_were(dtype: str, shape: tuple[int, ...]) -> None:
    ring = make_ring(4, 2, shape, dtype)
    rng, no = np.random.default_rng(0), np.zeros(2, dtype=bool)
    stream = [rng.integers(0, 2 if dtype == "bool" else 100, (2, *shape)).astype(dtype) for _ in range(7)]
    for obs in stream:
        ring.append(obs, np.zeros(2, np.int64), np.zeros(2), no, no, no)
    copy = make_ring(4, 2, shape, dtype)
    copy.write_rows(3, ring.read_rows(3, 7))
    assert_same(ring, copy)
    assert all((row == obs).all() for row, obs in zip(ring.read_rows(3, 7)["obs"].numpy(), stream[3:], strict=True))
    batch = copy.sample(20, GAMMA, generator())
    assert batch.s_tm1.numpy().dtype == np.dtype(dtype)
    assert batch.s_tm1.shape == batch.s_t.shape == (20, *shape)


def test_rows_of_another_ring_are_refused() -> None:
    ring, other = make_ring(4, 2), make_ring(4, 3)
    rows = make_stream(4, 2).play([["", ""]] * 3).ring.read_rows(0, 3)
    with pytest.raises(CheckpointError, match="action"):
        ring.write_rows(0, {name: tensor for name, tensor in rows.items() if name != "action"} | {"steps": rows["obs"]})
    with pytest.raises(CheckpointError, match=r"\[2, 1\], expected \[3, 1\]"):
        other.write_rows(0, rows)


def test_more_rows_than_fit_leave_the_last() -> None:
    rows = make_stream(9, 2).play([["", "t"]] * 9).ring.read_rows(0, 9)
    at_once, in_parts = make_ring(4, 2), make_ring(4, 2)
    at_once.write_rows(0, rows)
    for row in range(9):
        in_parts.write_rows(row, {name: tensor[row : row + 1] for name, tensor in rows.items()})
    assert at_once.first_row == 5
    assert_same(at_once, in_parts)
    assert torch.equal(at_once.read_rows(5, 9)["obs"], rows["obs"][5:])


def test_a_batch_is_cut_into_rows() -> None:
    batch = make_stream(9, 1).play([[""]] * 9).ring.sample(10, GAMMA, generator())
    parts = [batch.rows(0, 4), batch.rows(4, 8), batch.rows(8, 12)]
    assert [len(part.r_t) for part in parts] == [4, 4, 2]
    for whole, *split in zip(batch, *parts, strict=True):
        assert torch.equal(torch.cat(split), whole)


def test_capacity_is_in_steps_whatever_the_number_of_envs() -> None:
    assert make_ring(100, 1).capacity_rows == 100
    assert ReplayRing(capacity_steps=100, num_envs=8, shape=(1,), dtype="uint8").capacity_rows == 12
    with pytest.raises(ConfigError, match="16 steps is too small for 8 envs"):
        ReplayRing(capacity_steps=16, num_envs=8, shape=(1,), dtype="uint8")


def test_large_replays_are_announced_and_impossible_ones_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ring = ReplayRing(capacity_steps=3, num_envs=1, shape=(1_000_000_000,), dtype="uint8")  # touches no memory yet
        assert "3.0 GB" in caplog.text
        assert ring.num_bytes == 3 * (1_000_000_000 + 8 + 4 + 3)
        del ring
    with pytest.raises(ConfigError, match=r"GB.*lower replay_capacity"):
        ReplayRing(capacity_steps=10**6, num_envs=1, shape=(10**12,), dtype="uint8")
