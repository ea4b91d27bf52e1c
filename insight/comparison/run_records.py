"""Records of training runs, and groups of those that differ in nothing but the seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from torso.arrays import Floats
from torso.envs.games.atari_scores import sticky_actions_text
from torso.errors import RunError

EVALUATION_RETURN = "evaluation_return"
_OF_LOGS = frozenset({"log_period", "video_period"})  # settings that change no training
_LENGTH = "total_steps"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Record of a training run, as its directory holds it."""

    path: Path
    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    algorithm: str
    settings: Mapping[str, Any]  # of the algorithm, and total_steps; JSON values
    seed: int
    lines: Sequence[Mapping[str, Any]]  # of progress.jsonl, oldest first
    summary: Mapping[str, Any] | None  # None: the run has not ended
    versions: Mapping[str, str]

    @property
    def env(self) -> str:
        """Name of the env with what it was made with, such as ``ALE/Pong-v5 (protocol dqn2015, no sticky actions)``."""
        made_with = [f"{name} {_written(value)}" for name, value in self.env_kwargs.items()]
        made_with += [f"wrapper {name}" for name in self.wrappers]
        sticky = sticky_actions_text(self.env_id, self.env_kwargs)
        made_with += [] if sticky is None else [sticky]
        return f"{self.env_id} ({', '.join(made_with)})" if made_with else self.env_id

    def curve(self, metric: str) -> tuple[Floats, Floats]:
        """Steps and values of a figure of the log, each [N]; of two at one step the later.

        Raises RunError where the log has none.
        """
        points = {float(line["step"]): float(line[metric]) for line in self.lines if _is_number(line.get(metric))}
        if not points:
            raise self._no_figure(metric)
        steps = sorted(points)
        return np.array(steps), np.array([points[step] for step in steps])

    @property
    def total_steps(self) -> int:
        """Steps that an ended run has made."""
        return int(self._ended()["total_steps"])

    @property
    def score(self) -> Mapping[str, Any]:
        """Score of the best network on fresh episodes, as summary.json has it.

        Raises RunError for a run that has not ended, or was trained without evaluations.
        """
        score: Mapping[str, Any] | None = self._ended()["score"]
        if score is None:
            raise self._no_figure(EVALUATION_RETURN)
        return score

    @property
    def best_score(self) -> float:
        """Mean return of the best network on fresh episodes. Raises as `score`."""
        return float(self.score["mean_return"])

    @property
    def best_step(self) -> int | None:
        """Step of the best network; None where the summary does not say."""
        return self._ended().get("best_step")

    @property
    def last_score(self) -> float:
        """Mean return of the network at the end of the run, in its last evaluation. Raises as `score`."""
        self._ended()
        return float(self.curve(EVALUATION_RETURN)[1][-1])

    def _ended(self) -> Mapping[str, Any]:
        if self.summary is None:
            raise RunError(
                f"{self.path} must have ended, got a run without summary.json, which has no score; leave it out, or "
                f"resume it: torso train --out {self.path} --resume"
            )
        return self.summary

    def _no_figure(self, metric: str) -> RunError:
        if not self.lines:
            return RunError(f"{self.path} has no figures yet: its progress.jsonl is empty; train it for longer")
        if metric == EVALUATION_RETURN:
            return RunError(
                f"{self.path} must have evaluations, got a run without any; leave it out, or train it with an "
                "evaluation period"
            )
        known = {name for line in self.lines for name, value in line.items() if _is_number(value) and name != "step"}
        return RunError(f"metric must be a figure of {self.path}: {', '.join(sorted(known))}; got {metric!r}")


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in nothing but the seed, in the order of their seeds."""

    env: str
    """Name of the env, with what it was made with."""
    label: str
    """Algorithm, and the settings in which groups of it in this env differ."""
    runs: tuple[RunRecord, ...]


def group_runs(runs: Iterable[RunRecord], *, any_length: bool = False) -> list[RunGroup]:
    """Group runs by env, algorithm and settings, in the order in which envs, and in them the groups, first come.

    any_length: whether runs of different ``total_steps`` may be in one group.

    Raises RunError for no runs, and for two of one seed in a group, which would count it twice.
    """
    ignored = _OF_LOGS | ({_LENGTH} if any_length else set())
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in runs:
        settings = {name: value for name, value in run.settings.items() if name not in ignored}
        groups.setdefault((run.env, run.algorithm, _key(settings)), []).append(run)
    if not groups:
        raise RunError("runs to compare must be at least 1, got none")
    found = [
        RunGroup(
            env=env,
            label=", ".join([algorithm, *_differences(members[0], _beside(groups, env, algorithm), ignored)]),
            runs=_by_seed(members),
        )
        for (env, algorithm, _), members in groups.items()
    ]
    return [group for members in by_env(found).values() for group in members]


def require_env(runs: Iterable[RunRecord], env_id: str) -> None:
    """Raise RunError unless all runs are of this env, by its Gymnasium id."""
    for run in runs:
        if run.env_id != env_id:
            raise RunError(f"runs must be of {env_id}, got one of {run.env_id}: {run.path}; leave it out")


def by_env(groups: Iterable[RunGroup]) -> dict[str, list[RunGroup]]:
    """Sort groups by their env, in the order in which the envs first come."""
    found: dict[str, list[RunGroup]] = {}
    for group in groups:
        found.setdefault(group.env, []).append(group)
    return found


def _beside(groups: Mapping[tuple[str, str, str], list[RunRecord]], env: str, algorithm: str) -> list[RunRecord]:
    """List a run of each group of this algorithm in this env."""
    return [members[0] for (place, name, _), members in groups.items() if (place, name) == (env, algorithm)]


def _differences(run: RunRecord, others: Sequence[RunRecord], ignored: frozenset[str]) -> list[str]:
    names = dict.fromkeys(name for other in others for name in other.settings if name not in ignored)
    differing = [name for name in names if len({_key(other.settings.get(name)) for other in others}) > 1]
    return [f"{name} {_written(run.settings.get(name))}" for name in differing]


def _by_seed(runs: Sequence[RunRecord]) -> tuple[RunRecord, ...]:
    seen: dict[int, RunRecord] = {}
    for run in runs:
        if run.seed in seen:
            raise RunError(
                f"runs of one env, algorithm and settings must have different seeds, got seed {run.seed} in "
                f"{seen[run.seed].path} and {run.path}; leave one of them out"
            )
        seen[run.seed] = run
    return tuple(seen[seed] for seed in sorted(seen))


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _written(value: Any) -> str:
    """Write a setting's value for a label."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(_written, value)) or "none"
    if isinstance(value, Mapping):
        return _key(value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
