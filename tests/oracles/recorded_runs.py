"""Run directories of trainings that never took place: real files of made-up figures, to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torso.agents import DQNConfig, RunDirectory
from torso.agents.runs.trackers import Tracker


def record_run(
    path: Path,
    evaluations: Mapping[int, float],
    *,
    algorithm: str = "dqn",
    env_id: str = "CartPole-v1",
    seed: int = 0,
    score: float | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    losses: Mapping[int, float | None] | None = None,
    ended: bool = True,
    total_steps: int | None = None,
    **settings: Any,
) -> Path:
    """Write a run of these evaluations (mean returns by step); ``score`` is its best network's on fresh episodes."""
    steps = total_steps or max([*evaluations, *(losses or {}), 1])
    run = RunDirectory.prepare(
        path,
        kind="train",
        settings={
            "env_id": env_id,
            "env_kwargs": dict(env_kwargs or {}),
            "wrappers": list(wrappers),
            "total_steps": steps,
            "video_period": 0,
            **asdict(DQNConfig(algorithm=algorithm, **settings)),
        },
        resolved={},
        seed=seed,
        resume=False,
    )
    with run, Tracker(path) as tracker:
        for step in sorted({*evaluations, *(losses or {})}):
            if step in (losses or {}):
                tracker.log(step, {"episodes": step, "episode_return": step / 10, "loss": (losses or {})[step]})
            if step in evaluations:
                tracker.log(step, {"evaluation_return": evaluations[step], "evaluation_std": 1.0, "is_best": True})
        if ended:
            run.write_summary(_summary(evaluations, env_id, seed, steps, score))
    return path


def _summary(
    evaluations: Mapping[int, float], env_id: str, seed: int, steps: int, score: float | None
) -> dict[str, Any]:
    best_step = max(evaluations, key=lambda step: evaluations[step], default=0)
    mean = evaluations.get(best_step) if score is None else score
    return {
        "env_id": env_id,
        "seed": seed,
        "total_steps": steps,
        "best_step": best_step,
        "score": None if mean is None else {"episodes": 20, "mean_return": mean, "num_cut": 0},
    }
