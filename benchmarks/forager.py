"""Forager benchmark: food and poison per 1,000 steps, of trained agents and of a random one on the same episodes.

    python benchmarks/forager.py RUN... [--episodes 100]

RUN is the run directory of an agent that was trained in torso/Forager-v0; its best network plays greedily.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from report import Report

from torso.agents import RunDirectory, World, evaluation_seeds
from torso.agents.acting.evaluation import Actor
from torso.nets import Predictor

_TOGETHER = 32  # envs
_HEADER = ("food", "poison", "food - poison")


def forage(act: Actor, world: World, seeds: Sequence[int]) -> tuple[float, float, float]:
    """Play one episode a seed; returns food, poison and their difference per 1,000 steps, as the env counts them."""
    food = poison = steps = 0
    for start in range(0, len(seeds), _TOGETHER):
        envs = world.make(seeds[start : start + _TOGETHER])
        playing, state = np.ones(envs.num_envs, dtype=bool), ()
        obs, _ = envs.reset()
        while playing.any():
            actions, state = act(obs, state)
            obs, _, terminated, truncated, infos = envs.step(actions)
            steps += int(playing.sum())
            ends = playing & (terminated | truncated)
            food, poison = food + int(infos["food"][ends].sum()), poison + int(infos["poison"][ends].sum())
            playing &= ~ends
        envs.close()
    return tuple(1_000 * count / steps for count in (food, poison, food - poison))


def random_actor(world: World, seed: int) -> Actor:
    """Return an agent that draws its actions evenly."""
    rng, env = np.random.default_rng(seed), world.spec
    return lambda obs, state: (env.action_start + rng.integers(env.num_actions, size=len(obs)), ())


def main() -> None:
    """Score each run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--episodes", type=int, default=100, help="fresh episodes of each agent")
    options = parser.parse_args()
    report = Report("forager")
    lines: list[list[object]] = []
    scores = []
    for path in options.runs:
        run = RunDirectory.open(path)
        seed, world = run.config["seed"], World(env=run.settings["env_id"], env_kwargs=run.settings["env_kwargs"])
        seeds = evaluation_seeds(seed, options.episodes, "score")
        agents = (Predictor.load(run.best).act, random_actor(world, seed))
        scores.append([figure for act in agents for figure in forage(act, world, seeds)])
        lines.append([seed, *(f"{figure:.2f}" for figure in scores[-1])])
    lines.append(["mean", *(f"{statistics.fmean(column):.2f}" for column in zip(*scores, strict=True))])
    report.say(f"Per 1,000 steps, over {options.episodes} fresh episodes of each seed's best network.")
    report.say()
    report.table(["seed", *_HEADER, *(f"random: {name}" for name in _HEADER)], lines)
    report.data |= {"episodes": options.episodes, "columns": [*_HEADER, *_HEADER], "scores": scores}
    report.write()


if __name__ == "__main__":
    main()
