"""Replay samplers against oracles: only valid transitions, at their probabilities, bit-exact after a resume."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from priorities import NaivePriorities
from scipy import stats
from streams import Stream, events, make_ring, make_stream, played

from torso.agents.replay.batches import Sample, Sampler
from torso.agents.replay.prioritized import PrioritizedSampler
from torso.agents.replay.uniform import UniformSampler
from torso.errors import CheckpointError, ConfigError

EXPONENT = 0.7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(sample: Sample) -> list[tuple[int, int]]:
    return list(zip(sample.row.tolist(), sample.env.tolist(), strict=True))


def drawn(sample: Sample) -> list[tuple[int, int]]:
    """Without the places of weight 0."""
    return [place for place, weight in zip(places(sample), sample.weight.tolist(), strict=True) if weight]


def prioritized(stream: Stream, n_step: int = 1, exponent: float = EXPONENT, batch_size: int = 4) -> PrioritizedSampler:
    return PrioritizedSampler(stream.ring, n_step=n_step, exponent=exponent, batch_size=batch_size)


def priorities(sampler: PrioritizedSampler) -> dict[tuple[int, int], float]:
    """Priorities of the sampler by place, but those that it never draws."""
    state, tensors = sampler.state()
    rows = zip(range(state["start_row"], state["stop_row"]), tensors["priority"].tolist(), strict=True)
    return {(row, env): p for row, of_envs in rows for env, p in enumerate(of_envs) if p != 0}


def bumpy(num_envs: int, num_ticks: int) -> list[list[str]]:
    """A stream with ends of all kinds, of different envs at different times."""
    ends = ["", "t", "l", "t", "", "", "v", "t", "", "", "tl", "", ""]
    return [[ends[i % 13], ends[(i + 5) % 11]][:num_envs] for i in range(num_ticks)]


# -- any sampler -----------------------------------------------------------------------------------------------------


@given(played(), st.integers(1, 5), st.booleans())
def test_every_transition_is_drawn_and_nothing_else(stream: Stream, n_step: int, is_uniform: bool) -> None:
    if stream.ring.capacity_rows < n_step + stream.ring.frame_stack:
        with pytest.raises(ConfigError, match="raise replay_capacity"):
            UniformSampler(stream.ring, n_step=n_step)
        return
    sampler: Sampler = UniformSampler(stream.ring, n_step=n_step) if is_uniform else prioritized(stream, n_step)
    if not stream.oracle.start_rows(n_step):
        with pytest.raises(ConfigError, match=f"must hold a transition of {n_step} steps before it is sampled, got"):
            sampler.sample(4, generator(), 0.5)
        return
    sample = sampler.sample(1024, generator(), 0.5)
    expected = set(stream.oracle.transitions(n_step, 0.5))
    # At most 39 transitions: 1,024 draws miss one less than once in 10**10.
    assert set(drawn(sample)) == expected
    assert set(sample.weight.tolist()) <= {0.0, 1.0}  # all have the same priority
    assert sample.weight.dtype == torch.float32


@pytest.mark.parametrize("is_uniform", [True, False])
def test_a_sample_that_finds_no_transition_weighs_nothing(is_uniform: bool) -> None:
    stream = make_stream(9, 1)
    for _ in range(3):
        stream.cut()  # nothing but reset rows
    sampler: Sampler = UniformSampler(stream.ring) if is_uniform else prioritized(stream)
    sample = sampler.sample(48, generator(), 0.5)
    assert sample.weight.tolist() == [0.0] * 48
    sampler.update(sample, torch.full((48,), 9.0))
    assert stream.ring.transitions(sample.row, sample.env, gamma=0.5).weight.tolist() == [0.0] * 48
    stream.play([[""]] * 3)
    assert set(drawn(sampler.sample(48, generator(), 0.5))) == {(3, 0), (4, 0)}


@pytest.mark.parametrize("num_envs", [1, 2])
def test_uniform_sampling_favours_none(num_envs: int) -> None:
    """Also not those beside reset rows, which a rejected draw must not favour. (Fixed seeds: no chance to fail.)"""
    stream = make_stream(21, num_envs).play(bumpy(num_envs, 57))
    valid = set(stream.oracle.transitions(1, 0.5))
    assert 8 < len(valid) < 20 * num_envs  # some rows are reset rows
    counts = Counter(drawn(UniformSampler(stream.ring).sample(40_000, generator(3))))
    assert set(counts) == valid
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


# -- prioritized -----------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> tuple[Stream, list[Any], int]:
    """A ring, and what happens to it: ticks, cuts, and between them learning phases."""
    num_envs, frame_stack, n_step = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    stream = make_stream(draw(st.integers(n_step + frame_stack, 14)) + 2, num_envs, frame_stack)
    parts = draw(st.lists(st.tuples(events(num_envs, 12), st.integers(0, 2)), max_size=5))
    return stream, [each for part, phases in parts for each in [*part, *["learn"] * phases]], n_step


def phase(sampler: PrioritizedSampler, seed: int) -> tuple[Sample, torch.Tensor]:
    """Two minibatches, and errors that depend on their places alone."""
    sample = sampler.sample(8, generator(seed), 0.5)
    errors = (sample.row % 5 - 2) * 10.0 ** (sample.row % 3) * (sample.env + 1)
    sampler.update(sample, errors.float())
    return sample, errors


@given(histories())
def test_priorities_are_what_a_dictionary_of_them_holds(history: tuple[Stream, list[Any], int]) -> None:
    """New ones at the largest so far, those gone forgotten, reset rows without any, however long nobody looked."""
    stream, happenings, n_step = history
    sampler, oracle = prioritized(stream, n_step), NaivePriorities(EXPONENT)
    for seed, event in enumerate(happenings):
        if event != "learn":
            stream.play([event])
            oracle.see(stream.oracle.transitions(n_step, 0.5))
        elif oracle.p:
            sample, errors = phase(sampler, seed)
            p = np.array([oracle.p[place] for place in places(sample)]).reshape(2, 4)  # every one is a transition
            weights = (p / p.min(axis=1, keepdims=True)) ** -0.5
            np.testing.assert_allclose(sample.weight.view(2, 4), weights, rtol=1e-6)
            oracle.update(places(sample), errors.tolist())
    assert priorities(sampler) == pytest.approx(oracle.p, rel=1e-9)


@given(histories(), st.integers(0, 40))
def test_a_resume_in_the_middle_changes_no_bit(history: tuple[Stream, list[Any], int], at: int) -> None:
    """The rows written back, then the priorities; nor does a checkpoint that nobody resumes from."""
    stream, happenings, n_step = history
    samplers = [prioritized(stream, n_step), prioritized(stream, n_step)]  # the second is asked for its state
    for seed, event in enumerate([*happenings[:at], "resume", *happenings[at:]]):
        ring, before = stream.ring, stream.ring.num_rows
        if event == "resume":
            copy = make_stream(ring.capacity_rows, ring.num_envs, ring.frame_stack)
            copy.ring.write_rows(ring.first_row, ring.read_rows(ring.first_row, before))
            samplers.append(prioritized(copy, n_step))
            samplers[2].restore(*samplers[1].state())
        elif event != "learn":
            stream.play([event])
            for resumed in samplers[2:]:
                follow(resumed, stream, before, event)
        elif stream.oracle.transitions(n_step, 0.5):
            first, *others = (phase(sampler, seed)[0] for sampler in samplers)
            assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    (state, tensors), *others = (sampler.state() for sampler in samplers)
    for state_again, tensors_again in others:
        assert state == state_again
        assert all(torch.equal(tensors[name], tensors_again[name]) for name in tensors)


def follow(resumed: PrioritizedSampler, stream: Stream, before: int, event: Any) -> None:
    """Repeat the stream ring's new rows on the ring of the resumed sampler."""
    ring = resumed.ring
    if event == "abandon":
        ring.break_off()
        return
    rows = {name: tensor[0].numpy() for name, tensor in stream.ring.read_rows(before, before + 1).items()}
    stacks = np.broadcast_to(rows["obs"][:, None], (ring.num_envs, ring.frame_stack, 1))
    obs = stacks if ring.frame_stack > 1 else rows["obs"]
    if event == "cut":
        ring.end_episodes(obs)
    else:
        ring.append(obs, *(rows[name] for name in ("action", "reward", "terminated", "truncated", "is_reset")))


@pytest.mark.parametrize(("exponent", "num_envs"), [(0.0, 1), (0.6, 2), (1.0, 1)])
def test_transitions_are_drawn_in_proportion_to_their_priority(exponent: float, num_envs: int) -> None:
    """P(i) = p_i / sum p, with p_i = (abs(error) + 1e-6)^exponent; ranges of equal size do not shift it."""
    stream = make_stream(40, num_envs).play(bumpy(num_envs, 60))
    sampler = prioritized(stream, exponent=exponent, batch_size=32)
    errors: dict[tuple[int, int], float] = {}
    for seed in range(40):
        sample = sampler.sample(32, generator(seed), 1.0)
        given_errors = torch.linspace(0.2, 5.0, 32) * (1 if seed % 2 else -1)
        sampler.update(sample, given_errors)
        errors |= dict(zip(places(sample), given_errors.tolist(), strict=True))
    assert errors.keys() == stream.oracle.transitions(1, 0.5).keys()
    counts = Counter(places(sampler.sample(64_000, generator(7), 1.0)))
    share = np.array([(abs(errors[place]) + 1e-6) ** exponent for place in errors])
    # Ranges make counts more even than chance, so this finds a shift but not too even a draw; that is tested below.
    statistic = stats.chisquare([counts[place] for place in errors], 64_000 * share / share.sum())
    assert statistic.pvalue > 0.001


def test_a_minibatch_takes_one_from_each_of_as_many_equal_ranges() -> None:
    stream = make_stream(20, 1).play([[""]] * 9)
    sample = prioritized(stream, batch_size=8).sample(80, generator(), 0.5)  # eight transitions, of equal priority
    assert sample.row.view(10, 8).tolist() == [list(range(8))] * 10


def test_weights_undo_the_preference_in_the_mean() -> None:
    """sum P(i) w_i f_i is the mean of f up to one factor, for any f: the weights are as 1 / (N P(i))."""
    stream = make_stream(60, 2).play(bumpy(2, 50))
    sampler = prioritized(stream, exponent=0.6, batch_size=400)
    phase_sample = sampler.sample(400, generator(1), 1.0)
    sampler.update(phase_sample, phase_sample.row.double() / 7 + phase_sample.env + 1)
    sample = sampler.sample(400, generator(2), 1.0)
    weights = dict(zip(places(sample), sample.weight.tolist(), strict=True))
    p = priorities(sampler)
    assert weights.keys() == p.keys()  # one minibatch that has them all
    total, f = sum(p.values()), {place: np.sin(place[0]) + place[1] for place in p}
    factor = len(p) * min(p.values()) / total
    found = sum(p[place] / total * weights[place] * f[place] for place in p)
    assert found == pytest.approx(factor * np.mean(list(f.values())), rel=1e-5)
    assert max(weights.values()) == 1.0
    none = sampler.sample(400, generator(2), 0.0)
    assert none.weight.tolist() == [1.0] * 400


def test_errors_of_transitions_that_are_gone_are_dropped() -> None:
    stream = make_stream(6, 1).play([[""]] * 6)
    sampler = prioritized(stream)
    sample = sampler.sample(4, generator(), 0.5)
    stream.play([[""]] * 6)  # in the same slots
    sampler.update(sample, torch.full((4,), 50.0))
    assert set(priorities(sampler).values()) == {1.0}


def test_rows_written_back_without_their_priorities_are_new() -> None:
    stream = make_stream(6, 1).play([[""]] * 9)
    sampler = prioritized(stream)
    phase(sampler, 0)
    largest = sampler.state()[1]["max_priority"].item()
    assert largest > 1.0
    stream.ring.write_rows(5, stream.ring.read_rows(5, 8))
    assert priorities(sampler) == {(row, 0): largest for row in range(3, 7)}


def test_what_a_sampler_had_before_a_resume_is_forgotten() -> None:
    stream, other = make_stream(20, 1).play([[""]] * 6), make_stream(20, 1).play([[""]] * 19)
    sampler, resumed = prioritized(stream), prioritized(other)
    phase(sampler, 0)
    phase(resumed, 1)
    other.ring.write_rows(30, other.ring.read_rows(0, 1))  # elsewhere
    other.ring.write_rows(0, stream.ring.read_rows(0, 6))
    resumed.restore(*sampler.state())
    assert set(drawn(resumed.sample(400, generator(), 0.5))) <= {(row, 0) for row in range(5)}
    assert priorities(resumed) == priorities(sampler)


def test_an_error_may_carry_a_gradient_and_be_of_any_sign() -> None:
    stream = make_stream(9, 1).play([[""]] * 6)
    sampler = prioritized(stream, exponent=1.0, batch_size=5)
    sampler.update(sampler.sample(5, generator(), 0.5), torch.linspace(-2, 2, 5, requires_grad=True))
    assert list(priorities(sampler).values()) == pytest.approx([2, 1, 1e-6, 1, 2], abs=2e-6)
    assert not sampler.state()[1]["priority"].requires_grad


def test_a_checkpoint_takes_eight_bytes_an_item_at_most() -> None:
    stream = make_stream(50, 2).play(bumpy(2, 60))
    sampler = prioritized(stream)
    assert sum(tensor.nbytes for tensor in sampler.state()[1].values()) <= 8 * 100
    assert UniformSampler(stream.ring).state() == ({}, {})


def test_what_does_not_fit_is_refused() -> None:
    stream = make_stream(9, 2).play(bumpy(2, 12))
    sampler = prioritized(stream)
    with pytest.raises(ConfigError, match="num_samples must be a multiple of the minibatch size 4, got 6"):
        sampler.sample(6, generator(), 0.5)
    state, tensors = sampler.state()
    stream.play([["", ""]])
    with pytest.raises(
        CheckpointError, match=r"priorities must be of the rows 4 to 12 of 2 envs, .* of the rows 3 to 11"
    ):
        prioritized(stream).restore(state, tensors)
    state, tensors = sampler.state()
    with pytest.raises(CheckpointError, match=r"priorities must be .*, got \[8, 1\] of the rows"):
        prioritized(stream).restore(state, {**tensors, "priority": tensors["priority"][:, :1]})
    for n_step, frame_stack in ((9, 1), (6, 4)):
        ring = make_ring(9, 1, (frame_stack, 1), frame_stack=frame_stack)
        for sampler_class, settings in ((UniformSampler, {}), (PrioritizedSampler, {"exponent": 1, "batch_size": 4})):
            with pytest.raises(ConfigError, match=f"must have at least {n_step + frame_stack} rows of each env"):
                sampler_class(ring, n_step=n_step, **settings)
