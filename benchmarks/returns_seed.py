"""One seed of ``returns.py``: ``python returns_seed.py SETTINGS``, a JSON object. Trains, scores, writes the figures.

Killed at any moment and started again, it goes on where it was, and gives what it would have given.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from suites import Row, Seed

from torso.agents import World, evaluate, evaluation_seeds, train_run
from torso.agents.acting.evaluation import Actor
from torso.agents.runs.trackers import TIMING, read_jsonl
from torso.agents.training.driver import TrainingEvent
from torso.errors import RunError
from torso.files import atomic_write_json
from torso.nets import Predictor

_TOGETHER = 32  # envs
_ORPHAN_S = 300.0  # how long the process of a killed benchmark may take to notice that it is alone


def ends_with(parent: int) -> Callable[[TrainingEvent], None]:
    """End this process where it stands, as a kill would, once the benchmark that started it is gone."""

    def on_event(event: TrainingEvent) -> None:
        if os.getppid() != parent:
            raise SystemExit("the benchmark that started this is gone")

    return on_event


def train(seed: Seed, threads: int) -> dict[str, Any]:
    """Train to the end, or go on with it; the run's summary."""
    on_event, patience_s = ends_with(os.getppid()), time.monotonic() + _ORPHAN_S
    while True:
        try:
            result = train_run(
                seed.row.world(),
                seed.row.config(threads),
                total_steps=seed.row.total_steps,
                seed=seed.number,
                out=seed.run,
                resume=True,
                on_event=on_event,
            )
            return result.summary or {}
        except RunError as error:
            if "in use" not in str(error) or time.monotonic() > patience_s:
                raise
            time.sleep(1.0)


def forage(act: Actor, world: World, seeds: Sequence[int]) -> dict[str, float]:
    """Food, poison and steps of one episode a seed, from what the env counts."""
    totals = {"food": 0, "poison": 0, "steps": 0}
    for start in range(0, len(seeds), _TOGETHER):
        envs = world.make(seeds[start : start + _TOGETHER])
        playing, state = np.ones(envs.num_envs, dtype=bool), ()
        obs, _ = envs.reset()
        while playing.any():
            actions, state = act(obs, state)
            obs, _, terminated, truncated, infos = envs.step(actions)
            totals["steps"] += int(playing.sum())
            ends = playing & (terminated | truncated)
            for name in ("food", "poison"):
                totals[name] += int(infos[name][ends].sum())
            playing &= ~ends
        envs.close()
    per_1000 = {f"{name}_per_1000_steps": 1_000 * totals[name] / totals["steps"] for name in ("food", "poison")}
    return {**totals, **per_1000}


def random_actor(world: World, seed: int) -> Actor:
    """An agent that draws its actions evenly."""
    rng, env = np.random.default_rng(seed), world.spec
    return lambda obs, state: (env.action_start + rng.integers(env.num_actions, size=len(obs)), ())


def main() -> None:
    """Train and score one seed."""
    asked = json.loads(sys.argv[1])
    threads, episodes = asked["threads"], asked["episodes"]
    seed = Seed(Row(**asked["row"]), asked["seed"], Path(asked["suite"]))
    torch.set_num_threads(threads)
    summary = train(seed, threads)
    world, act = seed.row.world(), Predictor.load(seed.run / "best").act
    began_s = time.perf_counter()
    score_seeds = evaluation_seeds(seed.number, episodes, "score")
    score = evaluate(act, world, score_seeds)
    last = read_jsonl(seed.run / TIMING)[-1]
    figures: dict[str, Any] = {
        "seed": seed.number,
        "score": score.to_json(seed.row.env),
        "score_s": time.perf_counter() - began_s,
        **{name: summary[name] for name in ("total_steps", "num_updates", "num_episodes", "best_step", "cuts")},
        "training_s": last["elapsed_s"],
        "steps_per_s": summary["total_steps"] / last["elapsed_s"],
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "at_once": max(map(int, seed.starts.read_text().split())),
        "starts": len(seed.starts.read_text().split()),
        "config": asdict(seed.row.config(threads)),
    }
    if seed.row.counts_food:
        figures["foraged"] = forage(act, world, score_seeds)
        figures["foraged_at_random"] = forage(random_actor(world, seed.number), world, score_seeds)
    atomic_write_json(seed.figures, figures)


if __name__ == "__main__":
    main()
