"""Short runs: the envs and algorithms that a tab chooses from, and the settings that a run then has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torso.checks import whole
from torso.errors import ConfigError

if TYPE_CHECKING:
    from torso.agents.value_based.training_config import TrainingConfig

NUM_EVALUATIONS = 10  # of a run: as often is the agent seen to improve
NUM_LOG_LINES = 100  # of a run
FEWEST_STEPS, MOST_STEPS = 5_000, 20_000_000
LARGEST_SEED = 2**31 - 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class ShortRunEnv:
    """Env to train in. ``steps``: by algorithm, enough to learn in about half a minute of two cores."""

    env: str
    title: str
    about: str
    steps: Mapping[str, int]
    module: str | None = None
    """The package that it needs beyond torso's own."""


ALGORITHMS = {"pqn": "PQN", "dqn": "DQN", "n-step": "DQN, 3-step returns"}
"""Titles of the algorithms."""
ENVS = (
    ShortRunEnv(
        env="CartPole-v1",
        title="CartPole",
        about="Balance a pole on a cart: 1 for each step that it stands, 500 at most.",
        steps={"pqn": 200_000, "n-step": 50_000, "dqn": 50_000},
    ),
    ShortRunEnv(
        env="torso/Forager-v0",
        title="Forager",
        about="Find food in a room by range sensors, and leave the poison: 1 for food, −1 for poison.",
        steps={"pqn": 300_000, "n-step": 100_000, "dqn": 100_000},
    ),
    ShortRunEnv(
        env="MinAtar/Breakout-v1",
        title="MinAtar Breakout",
        about="Breakout on a screen of 10 × 10: 1 for each brick.",
        steps={"pqn": 500_000},
        module="minatar",
    ),
)
"""The envs, in the page's order."""


@dataclass(frozen=True, kw_only=True)
class ShortRun:
    """Run that a tab asks for. ``name``: of its directory; empty: one that is free."""

    env: str
    algorithm: str
    steps: int
    seed: int
    name: str = ""

    @property
    def stem(self) -> str:
        """Beginning of a name, such as ``cartpole-pqn-0``."""
        return f"{re.sub(r'[^a-z0-9]+', '-', _titles()[self.env].lower())}-{self.algorithm}-{self.seed}"


def env_choices() -> list[dict[str, Any]]:
    """Describe the envs that this machine has, with their algorithms."""
    return [
        {
            "env": each.env,
            "title": each.title,
            "about": each.about,
            "algorithms": [
                {"name": name, "title": ALGORITHMS[name], "steps": steps} for name, steps in each.steps.items()
            ],
        }
        for each in ENVS
        if each.module is None or find_spec(each.module) is not None
    ]


def title_of(env: str) -> str:
    """Title of an env; its id where it is none of these."""
    return _titles().get(env, env)


def require_run_name(name: object, what: str = "the run's name") -> str:
    """Return a name that is a directory's name and nothing else. ConfigError where it is not."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name.endswith("."):
        shown = repr(name[:80]) if isinstance(name, str) else type(name).__name__
        raise ConfigError(
            f"{what} must be up to 64 letters, digits, '-', '_' and '.', with a letter or a digit first and no '.' "
            f"last, got {shown}; choose another"
        )
    return name


def parse_short_run(fields: Mapping[str, Any]) -> ShortRun:
    """Read the run that a tab asks for. ConfigError where it cannot be."""
    env = next((each for each in ENVS if each.env == fields.get("env")), None)
    if env is None:
        raise ConfigError(f"env must be one of {', '.join(each.env for each in ENVS)}, got {fields.get('env')!r}")
    if fields.get("algorithm") not in tuple(env.steps):  # which may be anything, lists too
        raise ConfigError(f"algorithm must be one of {', '.join(env.steps)}, got {fields.get('algorithm')!r}")
    name = fields.get("name", "")
    return ShortRun(
        env=env.env,
        algorithm=fields["algorithm"],
        steps=whole("steps", fields.get("steps"), least=FEWEST_STEPS, most=MOST_STEPS),
        seed=whole("seed", fields.get("seed"), least=0, most=LARGEST_SEED),
        name=name if name == "" else require_run_name(name),
    )


def short_config(env: str, algorithm: str, steps: int) -> TrainingConfig:
    """Settings of a short run: the preset's, its schedules over these steps, with more log lines and evaluations."""
    from torso.agents.presets.lookup import preset

    known = preset(algorithm, env)
    share = steps / known.total_steps
    changes: dict[str, Any] = {
        "evaluation_period": -(-steps // NUM_EVALUATIONS),
        "log_period": -(-steps // NUM_LOG_LINES),
        "epsilon_decay_steps": max(1, round(known.config.epsilon_decay_steps * share)),
    }
    if known.config.learning_rate_end is not None:
        changes["learning_rate_decay_steps"] = max(1, round(known.config.learning_rate_decay_steps * share))
    return replace(known.config, **changes)


def train_command(run: ShortRun, out: str) -> str:
    """Command line of ``torso train`` that makes the same run."""
    from torso.agents.presets.lookup import preset

    theirs = asdict(preset(run.algorithm, run.env).config)
    own = asdict(short_config(run.env, run.algorithm, run.steps))
    words = ["torso", "train", run.algorithm, "--env", run.env, "--steps", str(run.steps), "--seed", str(run.seed)]
    for name, value in own.items():
        if value != theirs[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--out", out])


def model_commands(name: str, path: Path) -> list[str]:
    """Command lines that use a saved model."""
    words = (["play", "--model", f"{path}"], ["evaluate", f"{path}", "--episodes", "100"], ["serve", f"{name}={path}"])
    return [shlex.join(["torso", *each]) for each in words]


def _titles() -> dict[str, str]:
    return {each.env: each.title for each in ENVS}
