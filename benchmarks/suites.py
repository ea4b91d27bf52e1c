"""Suites of ``returns.py`` as data: which algorithm learns where, for how long, over how many seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from torso.agents import DQNConfig, World, preset


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table. Its settings are those of the preset for the algorithm and env, but for ``flags``."""

    env: str
    algorithm: str = "dqn"
    flags: Mapping[str, Any] = field(default_factory=dict)  # settings in place of the preset's
    seeds: int = 3
    steps: int | None = None  # None: the preset's
    threshold: float | None = None  # the mean return to reach
    stop_return: float | None = None  # end the training once an evaluation's mean return reaches this
    panel: str = ""  # where in the picture; "": the env's panel
    line: str = ""  # its name there; "": the algorithm's
    counts_food: bool = False  # count food and poison, beside a random agent's

    @property
    def total_steps(self) -> int:
        """Steps of each seed."""
        return preset(self.algorithm, self.env).total_steps if self.steps is None else self.steps

    @property
    def label(self) -> str:
        """The algorithm with the flags that are set."""
        set_ones = {name: value for name, value in self.flags.items() if value is True or value not in (False, 1)}
        on = [name if value is True else f"{name} {value}" for name, value in set_ones.items()]
        return self.algorithm if not on else " + ".join(on if self.algorithm == "dqn" else [self.algorithm, *on])

    @property
    def folder(self) -> str:
        """A name for its folder, of its own within a suite."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", f"{self.env}-{self.label}-{self.total_steps}")

    def world(self) -> World:
        """The env that it learns in, with the preset's arguments."""
        return World(env=self.env, env_kwargs=preset(self.algorithm, self.env).env_kwargs)

    def config(self, threads: int) -> DQNConfig:
        """The settings that it learns with."""
        known = preset(self.algorithm, self.env).config
        return replace(known, **self.flags, stop_return=self.stop_return, num_threads=threads)

    def to_json(self) -> dict[str, Any]:
        """The row as plain data, which `Row(**data)` reads."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Seed:
    """One training of a row: a process, a run directory and a file of figures."""

    row: Row
    number: int
    suite: Path  # the suite's folder

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.suite / self.row.folder / f"seed-{self.number}"

    @property
    def figures(self) -> Path:
        """Its result file; there once it is finished."""
        return self.run.with_suffix(".json")

    @property
    def log(self) -> Path:
        """Its process' log."""
        return self.run.with_suffix(".log")

    @property
    def starts(self) -> Path:
        """A line for each time it was started: how many processes were then allowed at once."""
        return self.run.with_suffix(".starts")

    def __str__(self) -> str:
        return f"{self.row.env} {self.row.label} seed {self.number}"


_GOALS = {  # env: (steps at most, the mean return of a solved env, that of an evaluation which ends the training)
    "torso/Identity-v0": (3_000, 0.95 * 8, None),  # 95% of its best return
    "CartPole-v1": (75_000, 475.0, 500.0),
    "Acrobot-v1": (100_000, -100.0, -85.0),
}


def _combinations() -> list[Row]:
    rows = []
    for env, (steps, threshold, enough) in _GOALS.items():
        for n_step, prioritized, double, dueling in product((1, 3), (False, True), (False, True), (False, True)):
            rows.append(
                Row(
                    env=env,
                    flags={"double": double, "dueling": dueling, "prioritized": prioritized, "n_step": n_step},
                    stop_return=enough,
                    seeds=3,
                    steps=steps,
                    threshold=threshold,
                    panel=f"{env}, n = {n_step}, {'prioritized' if prioritized else 'uniform'}",
                    line=" + ".join(["double"] * double + ["dueling"] * dueling) or "dqn",
                )
            )
    return rows


SUITES: dict[str, list[Row]] = {
    "cartpole": [
        Row(env="CartPole-v1", algorithm=algorithm, seeds=10, steps=50_000, threshold=500.0)
        for algorithm in ("n-step", "dqn")
    ],
    "lunarlander": [Row(env="LunarLander-v3", algorithm="n-step", seeds=10, steps=100_000, threshold=200.0)],
    "combinations": _combinations(),
    "minatar-breakout": [Row(env="MinAtar/Breakout-v1", flags={"n_step": 3}, seeds=3, steps=1_000_000, threshold=5.0)],
    "pong": [Row(env="ALE/Pong-v5", flags={"n_step": 3}, seeds=1, steps=1_000_000, threshold=0.0)],
    "forager": [Row(env="torso/Forager-v0", seeds=3, counts_food=True)],
}
