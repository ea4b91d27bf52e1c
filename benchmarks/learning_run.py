"""Worker of ``learning.py``: ``python learning_run.py TASK``, a JSON object. Trains a run, scores it, keeps its result.

SIGINT or SIGTERM ends it at a checkpoint, as does the end of the process that began it; the next start goes on there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from learning_plan import Run
from priority import stand_back
from report import json_text, machine

from torso.agents import RunDirectory, evaluate, evaluation_seeds, train_run
from torso.agents.runs.trackers import PROGRESS, TIMING, read_jsonl
from torso.files import atomic_write_bytes
from torso.interrupts import Interrupted, interruptible, stoppable
from torso.nets import Predictor

_NICENESS = 10


def score_of(run: Run, model: Path) -> dict[str, Any]:
    """Play the run's number of fresh episodes greedily with a saved network."""
    score = evaluate(
        Predictor.load(model).act,
        run.world,
        evaluation_seeds(run.seed, run.episodes, "score"),
        max_steps=run.config.evaluation_max_steps,
        max_envs=run.config.most_evaluation_envs,
    )
    return score.to_json(run.env, run.world.env_kwargs)


def curve_of(directory: Path) -> list[list[float]]:
    """Read the evaluations of a run directory: step, mean, least and largest return of each."""
    names = ("step", "evaluation_return", "evaluation_min", "evaluation_max")
    lines = [line for line in read_jsonl(directory / PROGRESS) if line.get("evaluation_return") is not None]
    return [[line[name] for name in names] for line in lines]


def result_of(run: Run, directory: Path, summary: dict[str, Any], jobs: int) -> dict[str, Any]:
    """Score a finished training, and collect what is kept of it."""
    began_s = time.perf_counter()
    best, last = score_of(run, directory / "best"), score_of(run, directory / "model")
    score_s, wall_s = time.perf_counter() - began_s, read_jsonl(directory / TIMING)[-1]["elapsed_s"]
    return {
        "name": run.name,
        "reason": run.reason,
        "command": run.command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": RunDirectory.open(directory).config["versions"],
        "jobs": jobs,
        "env": run.env,
        "env_kwargs": dict(run.world.env_kwargs),
        "observations": summary["observations"],
        "algorithm": run.algorithm,
        "label": run.label,
        "seed": run.seed,
        "steps": run.steps,
        "changed": run.changed(),
        "settings": asdict(run.config),
        "wall_s": wall_s,
        "score_s": round(score_s, 3),
        "steps_per_s": round(summary["total_steps"] / wall_s, 3),
        **{name: summary[name] for name in ("total_steps", "num_updates", "num_episodes", "cuts")},
        "evaluation_episodes": run.config.evaluation_episodes,
        "evaluations": curve_of(directory),
        "score_episodes": run.episodes,
        "goal": run.goal,
        "is_goal_reached": None if run.goal is None else best["mean_return"] >= run.goal,
        "best": {"step": summary["best_step"], **best},
        "last": {"step": summary["total_steps"], **last},
    }


def work(run: Run, directory: Path, result: Path, jobs: int, is_orphan: Callable[[], bool]) -> int:
    """Train a run, or go on with it, and write its result; returns the exit code, 0 where the result is written."""
    with stoppable(saves_from_start=False) as request:
        trained = train_run(
            run.world,
            run.config,
            total_steps=run.steps,
            seed=run.seed,
            out=directory,
            resume=True,
            stop=lambda: request.requested() or is_orphan(),
        )
    if trained.summary is None or request.exit_code:
        return request.exit_code or 1
    with interruptible():
        figures = result_of(run, directory, trained.summary, jobs)
        result.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(result, f"{json_text(figures)}\n".encode())
    return 0


def main() -> int:
    """Work on the run that the queue asks for."""
    task, parent = json.loads(sys.argv[1]), os.getppid()
    stand_back(_NICENESS)
    torch.set_num_threads(1)
    run = Run(**task["run"])
    try:
        return work(run, Path(task["directory"]), Path(task["result"]), task["jobs"], lambda: os.getppid() != parent)
    except Interrupted as interrupted:
        return interrupted.exit_code


if __name__ == "__main__":
    sys.exit(main())
