"""Time until PQN plays Pong with a GPU: ``python benchmarks/gpu/time_to_score.py [--minutes 7] [--goal 18]``.

PQN trains by its preset until an evaluation reaches the goal, a mean return out of 21. When time is over it ends at a
checkpoint, and the same command goes on there; the seconds are those of all its parts together.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import Cases, cuda_or_exit, deadline, hardware, parser_of

from torso.agents import World, preset, train_run
from torso.agents.runs.trackers import PROGRESS, TIMING, read_jsonl
from torso.agents.value_based.training_config import TrainingConfig

ENV, ALGORITHM, GOAL = "ALE/Pong-v5", "pqn", 18.0
RUN = Path("runs/gpu/pong-pqn")


def train_until(
    world: World,
    config: TrainingConfig,
    *,
    steps: int,
    seed: int,
    out: Path,
    is_over: Callable[[], bool],
) -> dict[str, Any]:
    """Train a run, or go on with it, until its goal or the end of time; return what is known of it then."""
    trained = train_run(world, config, total_steps=steps, seed=seed, out=out, resume=True, stop=is_over)
    goal = config.stop_return
    evaluations = [line for line in read_jsonl(out / PROGRESS) if line.get("evaluation_return") is not None]
    seconds = {line["step"]: line["elapsed_s"] for line in read_jsonl(out / TIMING)}
    curve = [[line["step"], line["evaluation_return"], round(seconds[line["step"]], 1)] for line in evaluations]
    reached = next((each for each in curve if goal is not None and each[1] >= goal), None)
    return {
        "state": "reached" if reached else "under way" if trained.summary is None else "ended below the goal",
        "total_steps": trained.total_steps,
        "seconds": round(max(seconds.values(), default=0.0), 1),
        "goal": goal,
        "steps_to_goal": None if reached is None else reached[0],
        "seconds_to_goal": None if reached is None else reached[2],
        "evaluations": curve,
    }


def main() -> None:
    """Train, print and write."""
    parser = parser_of(__doc__)
    parser.add_argument("--goal", type=float, default=GOAL, help="mean return of an evaluation; 21 is the most")
    parser.add_argument("--steps", type=int, default=20_000_000, help="steps after which it ends without the goal")
    parser.add_argument("--seed", type=int, default=0, help="the run's seed")
    parser.add_argument("--out", type=Path, default=None, help=f"the run directory; {RUN}-SEED unless given")
    arguments = parser.parse_args()
    device = cuda_or_exit()
    is_over = deadline(arguments.minutes - 0.5)  # a last evaluation, a checkpoint
    out = arguments.out or RUN.with_name(f"{RUN.name}-{arguments.seed}")
    if arguments.fresh and (out / "config.json").is_file():
        shutil.rmtree(out)
    known = preset(ALGORITHM, ENV)
    config = replace(known.config, stop_return=arguments.goal, device="cuda", checkpoint_period=200_000)
    name = f"{ALGORITHM}, seed {arguments.seed}"
    cases = Cases("gpu_time_to_score", {"env": ENV, "hardware": hardware(device)}, arguments.results)
    result = train_until(
        World(env=ENV, env_kwargs=known.env_kwargs),
        config,
        steps=arguments.steps,
        seed=arguments.seed,
        out=out,
        is_over=is_over,
    )
    cases.by_name[name] = result
    report = cases.report
    report.say(f"{ENV}, goal {arguments.goal:g}: {result['state']} after {result['seconds']:,.0f} s.")
    report.say()
    rows = [[each, f"{value:.1f}", f"{seconds:,.0f}"] for each, value, seconds in result["evaluations"]]
    report.table(["step", "mean return", "seconds"], rows)
    report.write()


if __name__ == "__main__":
    main()
