"""Queue of the learning runs: trains what ``learning.toml`` names, one run after the other, and keeps a result of each.

    python benchmarks/learning.py [--only PATTERN]... [--list] [--until-minutes N] [--jobs 1|2] [--runs runs/learning]

Each run is a niced process with one torch thread that trains into ``RUNS/NAME`` and, once it is scored, writes
``RESULTS/NAME.json``. What has a result is not run again. Ctrl-C, or the end of ``--until-minutes``, saves what is
running at a checkpoint; the same command goes on there. ``--list`` runs nothing. PATTERN is the name of a run, with
``*`` for any part of it; runs that are made on request need one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from learning_plan import PLAN, Run, read_plan
from report import RESULTS

from torso.agents.runs.checkpoints import CheckpointStore
from torso.agents.runs.trackers import TIMING, read_jsonl
from torso.errors import TorsoError
from torso.interrupts import stoppable

_WORKER = Path(__file__).with_name("learning_run.py")
_POLL_S, _TELL_PERIOD_S = 0.2, 60.0
_STOPPED = (128 + signal.SIGTERM, -signal.SIGTERM)  # exit codes of a worker that ended as it was asked to


@dataclass(frozen=True)
class Folders:
    """Places of the run directories, and of the results that are kept."""

    runs: Path
    results: Path

    def run(self, run: Run) -> Path:
        """Return the run directory."""
        return self.runs / run.name

    def log(self, run: Run) -> Path:
        """Return the file for what its process prints."""
        return self.runs / f"{run.name}.log"

    def result(self, run: Run) -> Path:
        """Return the result file; it is there once the run is finished."""
        return self.results / f"{run.name}.json"

    def read_result(self, run: Run) -> dict[str, Any] | None:
        """Read the result; None for a run that is not finished."""
        path = self.result(run)
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def step(self, run: Run) -> int | None:
        """Return the step at which the run would go on; None for one that was not begun."""
        return CheckpointStore(self.run(run) / "checkpoint").step


def selected(plan: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """Return the runs that match one of the patterns; without patterns all but those on request."""
    if not patterns:
        return [run for run in plan if not run.on_request]
    return [run for run in plan if any(fnmatchcase(run.name, pattern) for pattern in patterns)]


def outdated(run: Run, result: Mapping[str, Any]) -> str:
    """Say in what a result was made otherwise than the plan asks now; empty where it was made so."""
    now = {"steps": run.steps, "score_episodes": run.episodes, "env_kwargs": dict(run.world.env_kwargs)}
    then = {name: result[name] for name in now}
    now |= json.loads(json.dumps(asdict(run.config)))  # lists, as they are in the result
    then |= run.config.upgrade_settings(result["settings"])
    changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
    return "; ".join(f"{name} was {then.get(name)}, now {now.get(name)}" for name in changed)


def state_of(run: Run, folders: Folders) -> str:
    """Say how far a run is."""
    result = folders.read_result(run)
    if result is not None:
        return "done, with other settings" if outdated(run, result) else "done"
    step = folders.step(run)
    waiting = "on request" if run.on_request else "waiting"
    return waiting if step is None else f"at step {step:,}"


def speeds(plan: Sequence[Run], folders: Folders) -> dict[tuple[str, str], float]:
    """Measured steps a second by env and label, evaluations included; of a finished run before one under way."""
    found: dict[tuple[str, str], float] = {}
    for run in plan:
        result, lines = folders.read_result(run), read_jsonl(folders.run(run) / TIMING)
        if result is not None:
            found[run.env, run.label] = result["steps_per_s"]
        elif lines and lines[-1]["elapsed_s"]:
            found.setdefault((run.env, run.label), lines[-1]["step"] / lines[-1]["elapsed_s"])
    return found


def hours_left(run: Run, folders: Folders, known: Mapping[tuple[str, str], float]) -> float | None:
    """Estimate the hours that a run still takes; None where its speed was never measured."""
    if folders.result(run).exists():
        return 0.0
    speed = known.get((run.env, run.label))
    return None if speed is None else max(0, run.steps - (folders.step(run) or 0)) / speed / 3_600


def print_list(runs: Sequence[Run], plan: Sequence[Run], folders: Folders) -> None:
    """Print each run's state, the hours that it still takes and its scores, and the sums of each section."""
    known = speeds(plan, folders)
    for section in dict.fromkeys(run.section for run in runs):
        members = [run for run in runs if run.section == section]
        hours = [hours_left(run, folders, known) for run in members]
        done = sum(folders.result(run).exists() for run in members)
        unknown = hours.count(None)
        more = f", and {unknown} of unknown speed" if unknown else ""
        left = f"{sum(each for each in hours if each is not None):.1f} h left{more}"
        print(f"{section}: {done} of {len(members)} done, {left}. {members[0].reason}")
        for run, each in zip(members, hours, strict=True):
            shown = "     -" if each is None else f"{each:6.2f}"
            print(f"  {run.name:40} {state_of(run, folders):24} {shown} h  {_scores(run, folders)}".rstrip())


def _scores(run: Run, folders: Folders) -> str:
    result = folders.read_result(run)
    goal = "" if run.goal is None else f"goal {run.goal:g}"
    if result is None:
        return goal
    best, last = (f"{result[name]['mean_return']:,.1f}" for name in ("best", "last"))
    return ", ".join(filter(None, [f"best network {best}", f"last {last}", goal]))


def start(run: Run, folders: Folders, jobs: int) -> subprocess.Popen[bytes]:
    """Start a run's process. Signals of the terminal are the queue's, which passes them on."""
    folders.runs.mkdir(parents=True, exist_ok=True)
    task = {
        "run": run.to_json(),
        "directory": str(folders.run(run)),
        "result": str(folders.result(run)),
        "jobs": jobs,
    }
    with folders.log(run).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(_WORKER), json.dumps(task)],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def work_off(runs: Sequence[Run], folders: Folders, jobs: int, stop: Callable[[], bool]) -> list[Run]:
    """Train what has no result, ``jobs`` runs at once, until ``stop``; returns the runs that failed."""
    waiting = [run for run in runs if not folders.result(run).exists()]
    say(f"{len(runs) - len(waiting)} of {len(runs)} runs are done")
    for run in runs:
        result = folders.read_result(run)
        if result is not None and (changes := outdated(run, result)):
            say(f"{run.name}: done with other settings ({changes}); to run it anew, remove its result and its run")
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: list[Run] = []
    told_s, is_stopping = time.monotonic(), False
    try:
        while running or (waiting and not is_stopping):
            if not is_stopping and stop():
                is_stopping = True
                for process in running.values():
                    process.terminate()
            while waiting and len(running) < jobs and not is_stopping:
                run = waiting.pop(0)
                step = folders.step(run)
                say(f"{run.name}: begins" + ("" if step is None else f", on from step {step:,}"))
                running[run] = start(run, folders, jobs)
            if running:
                time.sleep(_POLL_S)
            for run in [run for run, process in running.items() if process.poll() is not None]:
                code = running.pop(run).returncode
                has_failed = bool(code) and not (is_stopping and code in _STOPPED)
                failed += [run] * has_failed
                say_end(run, folders, has_failed=has_failed)
            if time.monotonic() - told_s > _TELL_PERIOD_S:
                told_s = time.monotonic()
                for run in running:
                    say(progress_of(run, folders))
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return failed


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def say_end(run: Run, folders: Folders, *, has_failed: bool) -> None:
    """Print the end of a run's process: its scores, the step at which it was saved, or its last words."""
    result, step = folders.read_result(run), folders.step(run)
    if has_failed:
        said = folders.log(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        say(f"{run.name}: failed: {' '.join(said)} (all of it: {folders.log(run)})")
    elif result is None:
        say(f"{run.name}: stopped {'before its first checkpoint' if step is None else f'at step {step:,}'}")
    else:
        say(f"{run.name}: {_scores(run, folders)}, {result['wall_s']:,.0f} s of training")


def progress_of(run: Run, folders: Folders) -> str:
    """Describe a run that is under way by the last line of its log."""
    lines = read_jsonl(folders.run(run) / TIMING)
    if not lines:
        return f"{run.name}: before its first {run.config.log_period:,} steps"
    step, speed = lines[-1]["step"], lines[-1]["step"] / max(lines[-1]["elapsed_s"], 1e-9)
    if step >= run.steps:
        return f"{run.name}: trained, playing its episodes"
    minutes = (run.steps - step) / speed / 60
    return f"{run.name}: step {step:,} of {run.steps:,}, {speed:,.0f} steps/s, about {minutes:,.0f} min left"


def main(arguments: Sequence[str] | None = None) -> int:
    """Work the queue off, or list it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="only runs of such names")
    parser.add_argument("--list", action="store_true", help="print names, states and hours, and run nothing")
    parser.add_argument("--until-minutes", type=float, metavar="N", help="save and end after so many minutes")
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1, help="runs at once, each with one torch thread")
    parser.add_argument("--runs", type=Path, default=Path("runs/learning"), help="where the run directories are")
    parser.add_argument("--results", type=Path, default=RESULTS / "learning", help="where the results are")
    parser.add_argument("--plan", type=Path, default=PLAN, help="the TOML file that names the runs")
    options = parser.parse_args(arguments)
    folders = Folders(options.runs, options.results)
    try:
        plan = read_plan(options.plan)
    except TorsoError as error:
        parser.error(str(error))
    runs = plan if options.list and not options.only else selected(plan, options.only)
    if not runs:
        parser.error(f"--only must match a run's name, got {' '.join(options.only)}; see --list")
    if options.list:
        print_list(runs, plan, folders)
        return 0
    ends_s = float("inf") if options.until_minutes is None else time.monotonic() + 60 * options.until_minutes
    with stoppable() as request:
        failed = work_off(runs, folders, options.jobs, lambda: request.requested() or time.monotonic() >= ends_s)
    if failed:
        say(f"failed: {', '.join(run.name for run in failed)}")
    return request.exit_code or int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
