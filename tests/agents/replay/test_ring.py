"""Replay ring against an oracle of whole episodes, over streams of ends, lost lives, truncations and wrap-arounds."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streams import Stream, make_ring, make_stream, played
from transitions import MultiStep

from torso.agents.optim.devices import available_bytes
from torso.agents.replay.batches import Batch
from torso.agents.replay.ring import ReplayRing
from torso.agents.runs.checkpoints import plan_segments
from torso.errors import CheckpointError, ConfigError

GAMMA = 0.5  # so that sums of discounted rewards, which are quarters here, are exact


def tensors(places: Iterable[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    row, env = torch.tensor(list(places)).T
    return row, env


def multi_steps(batch: Batch) -> list[MultiStep]:
    """The rows of a batch as the oracle has them."""
    fields = [batch.s_tm1.flatten(1), batch.a_tm1, batch.r_t, batch.discount_t, batch.s_t.flatten(1)]
    masks = [None] * len(batch.r_t) if batch.mask_t is None else map(tuple, batch.mask_t.tolist())
    rows = zip(*(tensor.tolist() for tensor in fields), masks, strict=True)
    return [MultiStep(tuple(s), a, r, discount, tuple(s_t), mask) for s, a, r, discount, s_t, mask in rows]


def assert_as_the_oracle(ring: ReplayRing, expected: dict[tuple[int, int], MultiStep], n_step: int, clip: bool) -> None:
    """Starts are those that are expected and no other place, and what begins there is what is expected."""
    places = [(row, env) for row in range(-2, ring.num_rows + 3) for env in range(ring.num_envs)]
    row, env = tensors(places)
    batch = ring.transitions(row, env, n_step=n_step, gamma=GAMMA, clip_rewards=clip)
    is_start = ring.is_start(row, env, n_step)
    assert batch.weight.tolist() == is_start.float().tolist()
    assert batch.mask_t is None or batch.mask_t.any(dim=1).all()  # what is no transition must not give infinities
    found = zip(places, multi_steps(batch), is_start.tolist(), strict=True)
    assert {place: each for place, each, start in found if start} == expected


@given(played(), st.integers(1, 5), st.booleans())
def test_transitions_are_what_an_oracle_of_whole_episodes_holds(stream: Stream, n_step: int, clip: bool) -> None:
    """Nothing but true ones, and each of them: none across an env's end, a cut or the write head, none over a life."""
    expected = stream.oracle.transitions(n_step, GAMMA, clip_rewards=clip)
    assert_as_the_oracle(stream.ring, expected, n_step, clip)


def test_a_terminated_step_has_no_future_and_a_truncated_one_goes_on_from_its_last_observation() -> None:
    ring = make_ring(8, 3)
    obs = np.array([[1.0], [2.0], [3.0]])
    last = obs + 10
    actions, no = np.array([0, 1, 2]), np.zeros(3, dtype=bool)
    terminated, truncated = np.array([True, False, False]), np.array([False, True, False])
    ring.append(obs, actions, np.array([0.5, 1.5, 2.5]), terminated, truncated, no)
    ring.append(last, actions, np.ones(3), no, no, terminated | truncated)
    ring.append(last + 10, actions, np.zeros(3), no, no, no)
    ring.append(last + 20, actions, np.zeros(3), no, no, no)
    batch = ring.transitions(*tensors([(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 1)]), gamma=0.99)
    assert batch.weight.tolist() == [1, 1, 1, 0, 1, 1]  # the reset row of env 0 is no start
    assert batch.s_t.flatten().tolist()[:3] == [11.0, 12.0, 13.0]  # not 22, the next episode's first
    assert batch.discount_t.tolist()[:3] == [0.0, pytest.approx(0.99), pytest.approx(0.99)]
    assert batch.a_tm1.dtype == torch.int64
    assert {batch.r_t.dtype, batch.discount_t.dtype, batch.weight.dtype} == {torch.float32}
    two = ring.transitions(*tensors([(0, 0), (0, 1), (0, 2)]), n_step=2, gamma=0.99)
    assert two.r_t.tolist() == [0.5, 1.5, pytest.approx(2.5 + 0.99)]
    assert two.discount_t.tolist() == [0.0, pytest.approx(0.99), pytest.approx(0.99**2)]
    assert two.s_t.flatten().tolist() == [11.0, 12.0, 23.0]


def test_a_stack_goes_on_over_a_lost_life_and_begins_anew_after_the_games_end() -> None:
    stream = make_stream(20, 1, frame_stack=3).play([["v"], [""], ["t"], [""], [""], [""]])
    batch = stream.ring.transitions(*tensors([(0, 0), (1, 0), (2, 0), (4, 0)]), gamma=GAMMA)
    assert batch.s_tm1.flatten(1).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [0, 0, 5]]
    assert batch.s_t.flatten(1).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 5, 6]]
    assert batch.discount_t.tolist() == [0.0, GAMMA, 0.0, GAMMA]


def test_the_rows_at_both_ends_of_the_ring_are_no_starts() -> None:
    stream = make_stream(10, 2, frame_stack=4, num_actions=3)
    stream.play([["", ""]] * 8)
    assert stream.ring.start_rows(3) == range(5)
    stream.play([["", ""]] * 8)
    assert stream.ring.start_rows(3) == range(9, 13)  # rows 6, 7 and 8 lack planes, 13, 14 and 15 what comes after
    assert len(make_stream(10, 2).ring.start_rows(3)) == 0


def test_a_cut_truncates_what_is_under_way_and_nothing_else() -> None:
    stream = make_stream(8, 3)
    stream.tick(["", "t", ""])
    stream.tick(["t", "", ""])  # env 1 resets
    stream.cut()
    rows = stream.ring.read_rows(0, 3)
    assert rows["terminated"].tolist() == [[False, True, False], [True, False, False], [False] * 3]
    assert rows["truncated"].tolist() == [[False] * 3, [False, False, True], [False] * 3]
    assert rows["is_reset"].tolist() == [[False] * 3, [False, True, False], [True] * 3]


@given(played(), st.integers(1, 3), st.data())
def test_rows_that_are_read_and_written_back_give_the_same_ring(
    stream: Stream, n_step: int, data: st.DataObject
) -> None:
    """Also without the oldest of them: then nothing reaches behind what was written."""
    ring, num_rows = stream.ring, stream.ring.num_rows
    first = data.draw(st.integers(ring.first_row, num_rows))
    cuts = sorted(data.draw(st.sets(st.integers(first, num_rows), max_size=3)) | {first, num_rows})
    copy = make_stream(ring.capacity_rows, ring.num_envs, ring.frame_stack, 3 if ring.has_masks else None).ring
    if data.draw(st.booleans()):  # whatever it held before
        copy.write_rows(num_rows + 5, ring.read_rows(ring.first_row, num_rows))
    for start, stop in pairwise(cuts):
        rows = ring.read_rows(start, stop)
        assert all(len(tensor) == stop - start for tensor in rows.values())
        copy.write_rows(start, rows)
    if first == num_rows:  # nothing was written
        return
    assert copy.first_row == first
    if first == ring.first_row:
        assert_same(ring, copy)
    least = first + (ring.frame_stack - 1 if first > 0 else 0)
    expected = stream.oracle.transitions(n_step, GAMMA)
    assert_as_the_oracle(copy, {place: each for place, each in expected.items() if place[0] >= least}, n_step, False)


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
        restored = make_ring(capacity_rows, num_envs)
        for (start, _), rows in disk.items():
            restored.write_rows(start, rows)
        assert_same(ring, restored)


def assert_same(ring: ReplayRing, copy: ReplayRing) -> None:
    assert (copy.num_rows, copy.first_row) == (ring.num_rows, ring.first_row)
    rows, copied = ring.read_rows(ring.first_row, ring.num_rows), copy.read_rows(copy.first_row, copy.num_rows)
    assert rows.keys() == copied.keys()
    assert all(torch.equal(rows[name], copied[name]) for name in rows)
    places = [(row, env) for row in ring.start_rows(1) for env in range(ring.num_envs)]
    if places:
        first, second = (each.transitions(*tensors(places), gamma=GAMMA) for each in (ring, copy))
        assert multi_steps(first) == multi_steps(second)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("bool", (3,)),
        ("uint8", (2, 4, 4)),
        ("int8", (3,)),
        ("uint16", (3,)),
        ("uint32", (3,)),
        ("uint64", (2,)),
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
    assert all((row == obs).all() for row, obs in zip(ring.read_rows(3, 7)["obs"].numpy(), stream[3:], strict=True))
    batch = copy.transitions(*tensors([(3, 1), (5, 0)]), gamma=GAMMA)
    assert batch.s_tm1.numpy().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(batch.s_tm1.numpy(), np.stack([stream[3][1], stream[5][0]]))
    np.testing.assert_array_equal(batch.s_t.numpy(), np.stack([stream[4][1], stream[6][0]]))


def test_rows_of_another_ring_are_refused_before_anything_is_written() -> None:
    ring, other = make_ring(4, 2), make_ring(4, 3)
    rows = make_stream(4, 2).play([["", ""]] * 3).ring.read_rows(0, 3)
    with pytest.raises(CheckpointError, match="action"):
        ring.write_rows(0, {name: tensor for name, tensor in rows.items() if name != "action"} | {"steps": rows["obs"]})
    with pytest.raises(CheckpointError, match=r"must have obs \[3, 1\], got \[2, 1\]"):
        other.write_rows(0, rows)
    with pytest.raises(CheckpointError, match=r"must have reward \[2\], got \[3\]"):
        ring.write_rows(0, {**rows, "reward": torch.ones(3, 3)})
    assert ring.num_rows == other.num_rows == 0
    assert not ring.read_rows(0, 3)["obs"].any()


def test_more_rows_than_fit_leave_the_last() -> None:
    rows = make_stream(9, 2).play([["", "t"]] * 9).ring.read_rows(0, 9)
    at_once, in_parts = make_ring(4, 2), make_ring(4, 2)
    at_once.write_rows(0, rows)
    for row in range(9):
        in_parts.write_rows(row, {name: tensor[row : row + 1] for name, tensor in rows.items()})
    assert at_once.first_row == 5
    assert_same(at_once, in_parts)
    assert torch.equal(at_once.read_rows(5, 9)["obs"], rows["obs"][5:])


@pytest.mark.parametrize("num_actions", [None, 3])
def test_a_batch_is_cut_into_rows(num_actions: int | None) -> None:
    ring = make_stream(12, 1, num_actions=num_actions).play([[""]] * 12).ring
    batch = ring.transitions(*tensors([(row, 0) for row in range(10)]), gamma=GAMMA)
    parts = [batch.rows(0, 4), batch.rows(4, 8), batch.rows(8, 12)]
    for part, other in zip(parts, batch.split(4), strict=True):
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(part, other, strict=True))
    assert [len(part.r_t) for part in batch.split(5)] == [5, 5]
    assert [len(part.r_t) for part in parts] == [4, 4, 2]
    assert [each for part in parts for each in multi_steps(part)] == multi_steps(batch)


def test_capacity_is_in_steps_whatever_the_number_of_envs() -> None:
    assert make_ring(100, 1).capacity_rows == 100
    assert ReplayRing(capacity_steps=100, num_envs=8, shape=(1,), dtype="uint8").capacity_rows == 12
    with pytest.raises(ConfigError, match="capacity_steps must be at least 24, 3 rows of each of the 8 envs, got 16"):
        ReplayRing(capacity_steps=16, num_envs=8, shape=(1,), dtype="uint8")


def test_observations_that_are_no_stack_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape must begin with the stack of 4 frames, got \[84, 84\]"):
        make_ring(8, 1, (84, 84), "uint8", frame_stack=4)


@pytest.mark.parametrize("num_envs", [1, 8])
def test_a_million_atari_steps_take_less_than_seven_point_one_gigabytes(num_envs: int) -> None:
    """Of a thousandth of them, with the most actions a game has; `benchmarks/replay.py` fills a whole one."""
    ring = make_ring(1_000 // num_envs, num_envs, (4, 84, 84), "uint8", frame_stack=4, num_actions=18)
    assert ring.num_bytes <= 7.1e6
    assert ring.num_bytes == sum(tensor.nbytes for tensor in ring.read_rows(0, ring.capacity_rows).values())


def test_large_replays_are_announced_and_impossible_ones_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ring = make_ring(3, 1, (1_000_000_000,), "uint8")  # touches no memory yet
        assert "3.0 GB" in caplog.text
        assert ring.num_bytes == 3 * (1_000_000_000 + 8 + 4 + 3)
        del ring
    with pytest.raises(ConfigError, match=r"GB.*lower replay_capacity"):
        make_ring(10**6, 1, (10**12,), "uint8")


def test_a_replay_that_will_outgrow_the_memory_left_is_announced_in_gb(caplog: pytest.LogCaptureFixture) -> None:
    available = available_bytes(torch.device("cpu"))
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.1)
    size = int(available * 1.05)
    with caplog.at_level(logging.WARNING), suppress(ConfigError):  # some systems give no such addresses at all
        make_ring(3, 1, (size // 3,), "uint8")
    assert f"will take {size / 1e9:.1f} GB of memory, but cpu has" in caplog.text
    assert "lower replay_capacity" in caplog.text


def test_masks_are_those_of_both_states() -> None:
    ring = make_ring(8, 1, (1,), "float32", num_actions=2)
    masks = [[True, False], [False, True], [True, True]]
    for time, mask in enumerate(masks):
        row = (np.zeros(1, np.int64), np.zeros(1, np.float32), *(np.zeros(1, bool) for _ in range(3)))
        ring.append(np.full((1, 1), time, np.float32), *row, np.array([mask]))
    batch = ring.transitions(torch.tensor([0, 1]), torch.tensor([0, 0]), gamma=GAMMA)
    assert batch.mask_tm1 is not None
    assert batch.mask_t is not None
    assert batch.mask_tm1.tolist() == masks[:2]
    assert batch.mask_t.tolist() == masks[1:]
    assert torch.equal(batch.rows(1, 2).mask_tm1, batch.mask_tm1[1:])


def test_observations_of_zeros_and_ones_take_a_byte_each_and_come_back_as_they_were() -> None:
    ring = ReplayRing(capacity_steps=10, num_envs=1, shape=(50,), dtype="int64", is_one_hot=True)
    plain = ReplayRing(capacity_steps=10, num_envs=1, shape=(50,), dtype="int64")
    assert plain.num_bytes - ring.num_bytes == 10 * 50 * 7
    no, zero = np.zeros(1, dtype=bool), np.zeros(1)
    stream = np.eye(50, dtype=np.int64)[[3, 1, 4, 1]]
    for obs in stream:
        ring.append(obs[None], zero.astype(np.int64), zero, no, no, no)
    batch = ring.transitions(torch.arange(3), torch.zeros(3, dtype=torch.int64), gamma=0.9)
    assert batch.s_tm1.dtype == batch.s_t.dtype == torch.int64
    assert batch.s_tm1.numpy().tolist() == stream[:3].tolist()
    assert batch.s_t.numpy().tolist() == stream[1:].tolist()
    plain.append(stream[:1], zero.astype(np.int64), zero, no, no, no)
    ring.write_rows(0, plain.read_rows(0, 1))  # of a checkpoint from before
    assert ring.read_rows(0, 1)["obs"].flatten().tolist() == stream[0].tolist()
