"""How near a training is to what its machine can do: ``python benchmarks/performance.py [--seconds 4] [--fresh]``.

For each algorithm, with the preset of an env: the emulator alone, acting alone, the update alone, and the training. A
training that does one thing after the other cannot make more steps than its three parts would; its share of that is
what it loses to everything else. Then where a training's time goes, and how the parts' costs grow: with envs,
minibatch, width and replay.

Cases that are there already are not measured again (``--fresh``: all). Writes results/performance.json, the tables of
docs/performance.md and its picture; ``--pages`` measures nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Cases
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from report import RESULTS, machine
from training_limits import (
    NEVER,
    emulator,
    forward_alone,
    parts_of,
    sampler,
    settled_rate,
    timed_config,
    training,
    update_alone,
    world_of,
)

from torso.agents import DQNConfig, Training
from torso.agents.value_based.families import all_algorithm_names
from torso.agents.value_based.training_config import TrainingConfig
from torso.insight.pictures.line_panels import Panel, Series, draw_panels

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "images" / "performance.png"
CPU = torch.device("cpu")
ENVS: dict[str, tuple[int, tuple[str, ...]]] = {  # threads, and algorithms
    "CartPole-v1": (1, all_algorithm_names()),
    "MinAtar/Breakout-v1": (1, ("dqn", "qr-dqn", "rainbow", "pqn")),
    "ALE/Pong-v5": (2, all_algorithm_names()),
}
PROFILED = (
    ("CartPole-v1", "dqn"),
    ("CartPole-v1", "pqn"),
    ("MinAtar/Breakout-v1", "pqn"),
    ("MinAtar/Asterix-v1", "pqn"),
    ("ALE/Pong-v5", "dqn"),
    ("ALE/Pong-v5", "pqn"),
)
PROFILE = "profile"
NUM_ENVS = (1, 2, 4, 8, 16, 32, 64, 128)
BATCHES = (16, 32, 64, 128, 256, 512)
WIDTHS = (64, 128, 256, 512, 1_024)
CAPACITIES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
NETWORKS = {"MLP, CartPole": "CartPole-v1", "minatar, Breakout": "MinAtar/Breakout-v1", "nature, Pong": "ALE/Pong-v5"}


def config_of(algorithm: str, env: str, **settings: Any) -> TrainingConfig:
    """Settings of the preset on the CPU, with the threads that the env's row has."""
    num_threads, _ = ENVS.get(env, (1, ()))
    return timed_config(algorithm, env, CPU, **{"num_threads": num_threads, **settings})


def limits(algorithm: str, env: str, seconds: float) -> dict[str, float]:
    """Steps per second of an algorithm's parts in an env, each alone, and of its training."""
    config = config_of(algorithm, env)
    parts = parts_of(env, config, CPU)
    return {
        "emulator": emulator(env, config, seconds)["steps_per_s"],
        "acting": forward_alone(parts, seconds)["steps_per_s"],
        "update": update_alone(parts, seconds)["steps_per_s"],
        "training": training(env, config, CPU, 2 * seconds)["steps_per_s"],
    }


def profile(algorithm: str, env: str, seconds: float) -> dict[str, float]:
    """Steps per second of a training, and its parts' shares of the time."""
    made = Training(world_of(env), config_of(algorithm, env), seed=0, profiles=True)
    until_s = time.perf_counter() + seconds
    for _ in made.run(NEVER, stop=lambda: time.perf_counter() >= until_s):
        pass
    told = made.profile
    assert told is not None  # noqa: S101 - profiles=True
    spent = {part: each for part, each in told["seconds_by_part"].items() if part not in ("checkpoint", "evaluate")}
    total_s = sum(spent.values())  # the time between checkpoints: a short training has but the one at its end
    return {"steps_per_s": told["steps"] / total_s, **{part: each / total_s for part, each in spent.items()}}


def tick_ms(env: str, num_envs: int, seconds: float) -> dict[str, float]:
    """Milliseconds of a step of so many envs, and of their action values."""
    config = config_of("dqn", env, num_envs=num_envs)
    acting = forward_alone(parts_of(env, config, CPU), seconds)
    return {
        name: 1_000 * num_envs / found["steps_per_s"]
        for name, found in (("emulator", emulator(env, config, seconds)), ("acting", acting))
    }


def update_ms(env: str, seconds: float, **settings: Any) -> dict[str, float]:
    """Milliseconds of DQN's update."""
    found = update_alone(parts_of(env, config_of("dqn", env, **settings), CPU), seconds)
    return {"update": 1_000 / found["updates_per_s"]}


def sample_ms(capacity: int, seconds: float, **settings: Any) -> dict[str, float]:
    """Milliseconds of a minibatch of 32 from a replay of so many steps with 4 numbers each."""
    config = DQNConfig(batch_size=32, num_envs=8, replay_capacity=capacity, min_replay_size=100, **settings)
    return {"sample": 1_000 / settled_rate(sampler(config, (4,), "float32", CPU), CPU, seconds)}


def cases(seconds: float) -> dict[str, Callable[[], dict[str, float]]]:
    """All cases, by name."""
    short = seconds / 4
    found: dict[str, Callable[[], dict[str, float]]] = {}
    for env, (_, algorithms) in ENVS.items():
        found |= {f"limits, {env}, {name}": partial(limits, name, env, seconds) for name in algorithms}
        found |= {f"envs, {env}, {count}": partial(tick_ms, env, count, short) for count in NUM_ENVS}
        found |= {f"batch, {env}, {rows}": partial(update_ms, env, short, batch_size=rows) for rows in BATCHES}
    found |= {f"{PROFILE}, {env}, {name}": partial(profile, name, env, 10 * seconds) for env, name in PROFILED}
    for width in WIDTHS:
        of_mlp = {"hidden": (width, width), "batch_size": 64}
        found[f"width, CartPole-v1, {width}"] = partial(update_ms, "CartPole-v1", short, **of_mlp)
    for capacity in CAPACITIES:
        found[f"replay, uniform, {capacity}"] = partial(sample_ms, capacity, short)
        found[f"replay, prioritized, {capacity}"] = partial(sample_ms, capacity, short, prioritized=True)
    return found


def limit_of(case: Mapping[str, float]) -> float:
    """Steps per second of a training that spends time on its three parts alone, one after the other."""
    return 1 / sum(1 / case[part] for part in ("emulator", "acting", "update"))


def limits_table(env: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table of the algorithms in an env."""
    lines = [
        "| row | emulator | acting | update | limit | training | share |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ENVS[env][1]:
        case = found.get(f"limits, {env}, {name}")
        if case is None:
            continue
        limit = limit_of(case)
        speeds = [case["emulator"], case["acting"], case["update"], limit, case["training"]]
        cells = [f"`{name}`", *(f"{speed:,.0f}" for speed in speeds), f"{case['training'] / limit:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def profile_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown table of where trainings spend their time."""
    parts = ("env", "act", "store", "sample", "learn")
    lines = [
        f"| env | row | steps/s | {' | '.join(parts)} | the rest |",
        f"|---|---|---|{'---|' * len(parts)}---|",
    ]
    for env, name in PROFILED:
        case = found.get(f"{PROFILE}, {env}, {name}")
        if case is not None:
            shares = [*(case[part] for part in parts)]
            cells = [env, f"`{name}`", f"{case['steps_per_s']:,.0f}", *(f"{each:.0%}" for each in shares)]
            lines.append(f"| {' | '.join(cells)} | {1 - sum(shares):.0%} |")
    return "\n".join(lines)


def page_with(text: str, found: Mapping[str, Mapping[str, float]]) -> str:
    """Replace what stands between the page's marks, ``<!-- measured ENV -->`` and ``<!-- end -->``."""

    def replaced(mark: re.Match[str]) -> str:
        table = profile_table(found) if mark[1] == PROFILE else limits_table(mark[1], found)
        return f"<!-- measured {mark[1]} -->\n{table}\n<!-- end -->"

    return re.sub(r"<!-- measured (\S+) -->\n.*?<!-- end -->", replaced, text, flags=re.DOTALL)


def growth(kind: str, names: Mapping[str, tuple[str, str]], found: Mapping[str, Mapping[str, float]]) -> list[Series]:
    """Lines of a panel: by label, where a case's name goes on, and which of its figures is drawn."""
    lines = []
    for label, (prefix, part) in names.items():
        start = f"{kind}, {prefix}, "
        points = [(int(name.removeprefix(start)), case[part]) for name, case in found.items() if name.startswith(start)]
        if points:
            x, y = np.array(sorted(points), dtype=np.float64).T
            lines.append(Series(label=label, x=x, y=y, num_seeds=None))
    return lines


def panels_of(found: Mapping[str, Mapping[str, float]]) -> list[Panel]:
    """Panels of the picture."""
    envs = {f"emulator, {name.partition(', ')[2]}": (env, "emulator") for name, env in NETWORKS.items()}
    acting = {f"acting, {name}": (env, "acting") for name, env in NETWORKS.items()}
    updates = {f"update, {name}": (env, "update") for name, env in NETWORKS.items()}
    replays = {f"minibatch, {name}": (name, "sample") for name in ("uniform", "prioritized")}
    width = {"update, MLP, CartPole": ("CartPole-v1", "update")}
    made = (
        ("a step of all envs", "number of envs", growth("envs", {**envs, **acting}, found)),
        ("an update", "rows of the minibatch", growth("batch", updates, found)),
        ("an update of 64 rows", "width of the two layers", growth("width", width, found)),
        ("a minibatch of 32", "steps in the replay", growth("replay", replays, found)),
    )
    return [Panel(title=title, x_label=label, lines=tuple(lines)) for title, label, lines in made if lines]


def _logarithmic(axes: Axes, axis: str) -> None:
    of_axis = axes.xaxis if axis == "x" else axes.yaxis
    getattr(axes, f"set_{axis}scale")("log")
    of_axis.set_major_formatter(lambda value, _: f"{value:g}" if value < 10_000 else EngFormatter(sep="")(value))
    of_axis.set_minor_formatter("")
    if axis == "x":
        x = sorted({each for line in axes.lines for each in line.get_xdata()})
        if len(x) <= len(NUM_ENVS):
            axes.set_xticks(x)
    else:
        y = [each for line in axes.lines for each in line.get_ydata()]
        axes.set_ylim(10 ** math.floor(math.log10(min(y))), 10 ** math.ceil(math.log10(max(y))))


def write_pages(found: Mapping[str, Mapping[str, float]]) -> None:
    """Write the page's tables and its picture."""
    draw_panels(
        panels_of(found),
        PICTURE,
        title="Cost of a training's parts",
        y_label="milliseconds",
        x=partial(_logarithmic, axis="x"),
        y=partial(_logarithmic, axis="y"),
    )
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and write the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="time of each part; a training has twice as much")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="cases of such names, anew")
    parser.add_argument("--fresh", action="store_true", help="measure all cases anew")
    parser.add_argument("--pages", action="store_true", help="write the pages from what was measured")
    options = parser.parse_args(arguments)
    if options.pages:
        write_pages(json.loads((RESULTS / "performance.json").read_text(encoding="utf-8"))["cases"])
        return 0
    about = {"torch": torch.__version__, **machine()}
    measured = Cases("performance", about, RESULTS, fresh=options.fresh)
    asked = cases(options.seconds)
    if options.only:
        asked = {name: case for name, case in asked.items() if any(fnmatchcase(name, each) for each in options.only)}
        for name in asked:
            measured.by_name.pop(name, None)
    measured.measure(asked, lambda: False)
    write_pages(measured.by_name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
