"""Statistics of scores over seeds and tasks: interquartile mean, probability of improvement, profiles, intervals.

The definitions are those of Agarwal et al. 2021 (Deep Reinforcement Learning at the Edge of the Statistical Precipice,
arXiv 2108.13264) and of its package rliable. *Scores* are a sequence of arrays [..., seeds], float64, one a task (an
env, a game); the number of seeds may differ from task to task. Leading axes are the same in all, and are kept: a
statistic of [R, seeds] is [R], so that a bootstrap computes all of its resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from torso.arrays import Array, Floats, Ints
from torso.errors import ConfigError, InputError

Scores: TypeAlias = Sequence[ArrayLike]

RESAMPLES = 10_000
CONFIDENCE = 0.95


def interquartile_mean(scores: Scores) -> Floats:
    """Mean of the middle half of all scores, those of all tasks and seeds together (IQM).

    Of n scores the n // 4 least and the n // 4 greatest are left out. Returns [...].
    """
    pooled = np.sort(np.concatenate(_tasks(scores), axis=-1), axis=-1)
    cut = pooled.shape[-1] // 4
    return _floats(pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1))


def mean_score(scores: Scores) -> Floats:
    """Mean over the tasks of each task's mean over seeds. Returns [...]."""
    return _floats(_task_means(scores).mean(axis=0))


def median_score(scores: Scores) -> Floats:
    """Median over the tasks of each task's mean over seeds. Returns [...]."""
    return _floats(np.median(_task_means(scores), axis=0))


def optimality_gap(scores: Scores, target: float = 1.0) -> Floats:
    """Mean amount by which scores fall short of ``target``, scores above it counting as equal to it. Returns [...].

    With human-normalised scores, 1 is the human's. Each task has the same weight.
    """
    short = [np.minimum(task, target).mean(axis=-1) for task in _tasks(scores)]
    return _floats(target - np.mean(short, axis=0))


def probability_of_improvement(first: Scores, second: Scores) -> Floats:
    """Probability that a run of ``first`` scores more than one of ``second`` in the same task, mean over the tasks.

    Ties count one half (the Mann-Whitney U statistic over its largest value). Both have the same tasks in the same
    order. Returns [...], in [0, 1].
    """
    ours, theirs = _tasks(first, "first"), _tasks(second, "second")
    if len(ours) != len(theirs):
        raise InputError("second", expected=f"scores of the {len(ours)} tasks of first", got=f"{len(theirs)} tasks")
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        difference = one[..., :, None] - other[..., None, :]  # [..., seeds of first, seeds of second]
        shares.append(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)))
    return _floats(np.mean(shares, axis=0))


def performance_profile(scores: Scores, thresholds: ArrayLike) -> Floats:
    """Share of runs that score more than each threshold (run-score distribution), mean over the tasks.

    thresholds: [T]. Returns [T, ...], falling along T where thresholds rise.
    """
    levels = np.asarray(thresholds, np.float64)
    if levels.ndim != 1 or not np.isfinite(levels).all():
        raise InputError("thresholds", expected="a row of finite numbers", got=f"shape {levels.shape}")
    tasks = _tasks(scores)
    return _floats(np.stack([np.mean([(task > level).mean(axis=-1) for task in tasks], axis=0) for level in levels]))


def bootstrap_interval(
    statistic: Callable[..., Array],
    *groups: Scores,
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats]:
    """Stratified bootstrap percentile interval of a statistic: each task's seeds are resampled with replacement.

    statistic: takes as many scores as there are ``groups`` and keeps their leading axes, as those of this module do.
    Groups are resampled independently. Returns the lower and the upper bound, of the statistic's shape [...]. With one
    seed a task there is nothing to resample, and both are the statistic itself.

    Raises:
        ConfigError: a confidence outside (0, 1), no resamples, a statistic that does not keep the leading axes.
        InputError: scores that are not arrays of finite numbers, without tasks or seeds.
    """
    tasks = [_tasks(group) for group in groups]
    return _percentiles(statistic, tasks, _draws(tasks, resamples, rng), confidence)


def sample_efficiency(
    curves: Scores, *, rng: np.random.Generator, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> tuple[Floats, Floats, Floats]:
    """Interquartile mean over training steps, with its stratified bootstrap interval at each.

    curves: one [steps, seeds] a task, at the same steps in all. Whole runs are resampled. Returns the IQM and the lower
    and upper bounds, each [steps]. Raises as `bootstrap_interval`.
    """
    tasks = _tasks(curves, "curves")
    if tasks[0].ndim != 2:
        raise InputError("curves", expected="arrays [steps, seeds]", got=f"shape {tasks[0].shape}")
    draws = _draws([tasks], resamples, rng)
    bounds = [  # a step at a time, or the resamples of long curves would fill the memory
        _percentiles(interquartile_mean, [[task[step] for task in tasks]], draws, confidence)
        for step in range(len(tasks[0]))
    ]
    low, high = (np.array([each[side] for each in bounds]) for side in (0, 1))
    return interquartile_mean(tasks), _floats(low), _floats(high)


def _tasks(scores: Scores, name: str = "scores") -> list[Floats]:
    """Check scores: at least one task, each an array of finite numbers [..., seeds] with at least one seed."""
    if isinstance(scores, np.ndarray) and scores.ndim < 2:
        raise InputError(name, expected="an array of seeds for each task", got=f"one array of shape {scores.shape}")
    try:
        tasks = [np.asarray(task, np.float64) for task in scores]
    except (TypeError, ValueError) as error:
        raise InputError(name, expected="an array of numbers for each task", got=f"something else ({error})") from error
    if not tasks:
        raise InputError(name, expected="scores of at least 1 task", got="none")
    for task in tasks:
        if task.ndim == 0 or task.shape[-1] == 0:
            raise InputError(name, expected="at least 1 seed in each task", got=f"shape {task.shape}")
        if task.shape[:-1] != tasks[0].shape[:-1]:
            shapes = f"{tasks[0].shape} and {task.shape}"
            raise InputError(name, expected="the same leading axes in each task", got=f"shapes {shapes}")
        if not np.isfinite(task).all():
            raise InputError(name, expected="finite numbers", got="NaN or infinity")
    return tasks


def _task_means(scores: Scores) -> Floats:
    return _floats(np.stack([task.mean(axis=-1) for task in _tasks(scores)]))  # [tasks, ...]


def _draws(groups: Sequence[Sequence[Floats]], resamples: int, rng: np.random.Generator) -> list[list[Ints]]:
    """Draw the seeds of each resample: int64 [resamples, seeds] for each task of each group."""
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}")
    return [[rng.integers(task.shape[-1], size=(resamples, task.shape[-1])) for task in tasks] for tasks in groups]


def _percentiles(
    statistic: Callable[..., Array],
    groups: Sequence[Sequence[Floats]],
    draws: Sequence[Sequence[Ints]],
    confidence: float,
) -> tuple[Floats, Floats]:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be above 0 and below 1, got {confidence}")
    resampled = [
        [task[..., drawn] for task, drawn in zip(tasks, theirs, strict=True)]  # [..., resamples, seeds]
        for tasks, theirs in zip(groups, draws, strict=True)
    ]
    values, count = np.asarray(statistic(*resampled), np.float64), len(draws[0][0])
    if values.ndim == 0 or values.shape[-1] != count:
        raise ConfigError(f"statistic must keep the leading axes, here {count} resamples, got shape {values.shape}")
    low, high = np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)], axis=-1)
    return _floats(low), _floats(high)


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64)
