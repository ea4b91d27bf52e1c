"""Plan of the learning runs: ``learning.toml`` read into one row of data a run, checked before anything is trained."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torso.agents import World, preset
from torso.agents.value_based.training_config import TrainingConfig
from torso.errors import ConfigError

PLAN = Path(__file__).with_name("learning.toml")
_OF_SECTION = ("env", "reason", "goal", "steps", "episodes", "settings", "env_kwargs", "on_request", "runs")
_OF_RUN = ("seeds", "algorithm", "settings")


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One training with one seed. Its settings are those of the preset, but for ``settings``."""

    name: str
    plan: str  # name of the file that it stands in
    section: str
    label: str  # its name within the section, its seed aside
    env: str
    algorithm: str
    seed: int
    reason: str
    goal: float | None  # mean return of the best network that the claim needs; None: it is only compared
    steps: int
    episodes: int  # fresh ones, that score the best and the last network
    settings: Mapping[str, Any] = field(default_factory=dict)
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    on_request: bool = False  # run only where --only names it

    @property
    def command(self) -> str:
        """The command that trains it."""
        plan = "" if self.plan == PLAN.name else f" --plan benchmarks/{self.plan}"
        return f"python benchmarks/learning.py{plan} --only {self.name}"

    @property
    def world(self) -> World:
        """The env that it learns in."""
        return World(env=self.env, env_kwargs=self.env_kwargs)

    @property
    def config(self) -> TrainingConfig:
        """The settings that it learns with.

        Raises:
            ConfigError: settings that cannot work, or are of no use to the algorithm.
        """
        config = replace(preset(self.algorithm, self.env).config, **self.settings)
        config.require_used(list(self.settings))
        config.require_used_by_algorithm()
        return config

    def changed(self) -> dict[str, Any]:
        """Settings, steps and arguments of the env that differ from the preset's."""
        known = preset(self.algorithm, self.env)
        theirs, own = asdict(known.config), asdict(self.config)
        changed = {name: value for name, value in own.items() if value != theirs[name]}
        if self.steps != known.total_steps:
            changed["steps"] = self.steps
        if dict(self.env_kwargs) != dict(known.env_kwargs):
            changed["env_kwargs"] = dict(self.env_kwargs)
        return changed

    def to_json(self) -> dict[str, Any]:
        """Convert to plain data, which ``Run(**data)`` reads."""
        return asdict(self)


def read_plan(path: Path) -> list[Run]:
    """Read all runs in their order: section by section, in each first seed by seed.

    Raises:
        ConfigError: the file is no TOML, or something in it is missing, unknown or named twice.
    """
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    runs = [run for name, section in sections.items() for run in _runs_of(path.name, name, section)]
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"a run's name must be its own, got {', '.join(twice)} more than once")
    return runs


def _runs_of(plan: str, name: str, section: Mapping[str, Any]) -> list[Run]:
    _require_fields(name, section, known=_OF_SECTION, needed=("env", "reason", "runs"))
    runs = []
    for label, row in section["runs"].items():
        _require_fields(f"{name}.runs.{label}", row, known=_OF_RUN, needed=("seeds",))
        algorithm = row.get("algorithm", label)
        known = preset(algorithm, section["env"])
        runs += [
            Run(
                name=f"{name}-{label}-{seed}",
                plan=plan,
                section=name,
                label=label,
                env=section["env"],
                algorithm=algorithm,
                seed=seed,
                reason=section["reason"],
                goal=section.get("goal"),
                steps=section.get("steps", known.total_steps),
                episodes=section.get("episodes", 100),
                settings={**section.get("settings", {}), **row.get("settings", {})},
                env_kwargs=section.get("env_kwargs", known.env_kwargs),
                on_request=section.get("on_request", False),
            )
            for seed in row["seeds"]
        ]
    return sorted(runs, key=lambda run: run.seed)  # so that there is something of each row early on


def _require_fields(name: str, table: object, *, known: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if not isinstance(table, dict):
        raise ConfigError(f"{name} must be a table, got {table!r}")
    if unknown := [each for each in table if each not in known]:
        raise ConfigError(f"{name} must have only {', '.join(known)}, got {', '.join(unknown)}")
    if missing := [each for each in needed if each not in table]:
        raise ConfigError(f"{name} must have {', '.join(missing)}")
