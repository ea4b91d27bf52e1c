"""Replay benchmark at a million steps: prioritized sampling, rebuilding stacks of frames, memory.

python benchmarks/replay.py [--steps 1000000]

One thread. Memory is what the process has resident once a ring is full of Atari frames (stacks of four), less what it
had before; two rings are filled, one after the other, each about 7.1 GB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import Report

from torso.agents.replay.prioritized import PrioritizedSampler
from torso.agents.replay.ring import ReplayRing
from torso.agents.replay.uniform import UniformSampler

BATCH_SIZE = 32
GAMMA = 0.99


def timed_ms(work: Callable[[], object], repeats: int = 1_000) -> list[float]:
    """The milliseconds of each of many calls, the first tenth of them left out."""
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        work()
        times.append(round(1000 * (time.perf_counter() - began_s), 4))
    return times[repeats // 10 :]


def resident_bytes() -> int:
    """Resident memory of this process, as the operating system reports it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def stream(ring: ReplayRing, frame: tuple[int, ...], rng: np.random.Generator) -> Callable[[], None]:
    """Give a function that appends a row: frames that differ, an episode's end in 500 steps, a lost life in 200."""
    envs = ring.num_envs
    shape = (ring.frame_stack, *frame) if ring.frame_stack > 1 else frame
    obs = rng.integers(0, 256, (13, envs, *shape), dtype=np.uint8)
    is_reset, no = np.zeros(envs, dtype=bool), np.zeros(envs, dtype=bool)
    actions, rewards = np.zeros(envs, dtype=np.int64), np.ones(envs, dtype=np.float32)

    def append() -> None:
        nonlocal is_reset
        ended = (rng.random(envs) < 1 / 500) & ~is_reset
        lost = (rng.random(envs) < 1 / 200) & ~is_reset
        ring.append(obs[ring.num_rows % len(obs)], actions, rewards, ended | lost, no, is_reset)
        is_reset = ended

    return append


def prioritized(report: Report, steps: int) -> None:
    """Sample a minibatch and update its priorities, alone and with the rows that come between two of them."""
    rows = []
    for envs in (1, 8):
        ring = ReplayRing(capacity_steps=steps, num_envs=envs, shape=(1,), dtype="uint8")
        append = stream(ring, (1,), np.random.default_rng(0))
        for _ in range(ring.capacity_rows + 100):
            append()
        sampler = PrioritizedSampler(ring, n_step=3, exponent=0.6, batch_size=BATCH_SIZE)
        generator = torch.Generator().manual_seed(0)
        errors = torch.rand((1_000, BATCH_SIZE), generator=generator)
        count = 0

        def learn() -> None:
            nonlocal count
            sample = sampler.sample(BATCH_SIZE, generator, 0.4)  # noqa: B023 - called within this turn
            sampler.update(sample, errors[count % len(errors)])  # noqa: B023
            count += 1

        def step_and_learn() -> None:
            for _ in range(max(1, 4 // envs)):  # noqa: B023
                append()  # noqa: B023
            learn()

        alone, with_rows = timed_ms(learn), timed_ms(step_and_learn)
        report.data[f"prioritized_{envs}_envs_ms"] = {"alone": alone, "with_rows": with_rows}
        cells = [f"{statistics.median(times):.3f} ({max_of_most(times):.3f})" for times in (alone, with_rows)]
        rows.append([envs, f"{ring.capacity_rows * envs:,}", *cells])
    report.say(f"Sampling {BATCH_SIZE} by priority and updating their priorities, ms: median (99 of 100 take less)")
    report.say()
    report.table(["envs", "items", "sample + update", "the same after the steps of a learn period of 4"], rows)


def stacks(report: Report, ring: ReplayRing) -> tuple[float, float]:
    """Milliseconds of a uniform sample of stacks, and of copying as many planes from as many places alone."""
    sampler, generator = UniformSampler(ring), torch.Generator().manual_seed(0)
    planes = ring._items["obs"]

    def sample() -> None:
        drawn = sampler.sample(BATCH_SIZE, generator)
        ring.transitions(drawn.row, drawn.env, gamma=GAMMA)

    def copy() -> None:
        start = torch.randint(len(planes) - 8 * ring.num_envs, (BATCH_SIZE, 1), generator=generator)
        planes.index_select(0, (start + ring.num_envs * torch.arange(5)).flatten())

    whole, alone = timed_ms(sample), timed_ms(copy)
    report.data[f"stacks_{ring.num_envs}_envs_ms"] = {"sample": whole, "copy": alone}
    return statistics.median(whole), statistics.median(alone)


def atari(report: Report, steps: int) -> None:
    """Fill rings of Atari frames; the memory they take, and what a minibatch of them costs."""
    rows = []
    for envs in (1, 8):
        before = resident_bytes()
        ring = ReplayRing(capacity_steps=steps, num_envs=envs, shape=(4, 84, 84), dtype="uint8", frame_stack=4)
        append = stream(ring, (84, 84), np.random.default_rng(0))
        for _ in range(ring.capacity_rows):
            append()
        sampler = PrioritizedSampler(ring, n_step=1, exponent=0.6, batch_size=BATCH_SIZE)
        sampler.sample(BATCH_SIZE, torch.Generator().manual_seed(0), 0.4)
        resident = resident_bytes() - before
        sample_ms, copy_ms = stacks(report, ring)
        report.data[f"memory_{envs}_envs_bytes"] = {"said": ring.num_bytes, "resident": resident}
        rows.append([envs, f"{ring.capacity_rows * envs:,}", f"{ring.num_bytes / 1e9:.3f}", f"{resident / 1e9:.3f}",
                     f"{sample_ms:.3f}", f"{copy_ms:.3f}"])  # fmt: skip
        del ring, append, sampler
    report.say(f"A ring full of Atari frames, and {BATCH_SIZE} transitions drawn evenly from it")
    report.say()
    report.table(
        ["envs", "steps", "GB as num_bytes says", "GB resident, with priorities", "sample, ms", "its copy alone, ms"],
        rows,
    )


def max_of_most(times: list[float]) -> float:
    """The 99th percentile."""
    return statistics.quantiles(times, n=100)[-1]


def main() -> None:
    """Run all parts and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    report = Report("replay")
    prioritized(report, steps)
    atari(report, steps)
    report.write()


if __name__ == "__main__":
    main()
