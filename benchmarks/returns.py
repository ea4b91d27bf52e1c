"""Learning benchmark: returns of the best network on fresh episodes, over seeds, with the learning curves.

    python benchmarks/returns.py SUITE [--jobs 1] [--work runs/returns] [--seeds N] [--steps N] [--episodes 100]

Suites: cartpole, lunarlander, combinations, minatar-breakout, pong, forager (`suites.py`). All settings are those of
`torso.agents.preset`, but for the flags that a row names. Every seed is a process of its own that trains into a run
directory under ``--work``; started again after any end, a kill included, the benchmark goes on where it was, and gives
what it would have given. What is finished there is not run again. A work folder belongs to one state of the code.

Ctrl-C writes the table and the picture of what there is; so does ``--table``, which runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from report import Report
from returns_curves import curve_of, figures_of, seeds_of
from returns_table import tell
from suites import SUITES, Row, Seed

from torso.agents.runs.trackers import PROGRESS, TIMING, read_jsonl

HERE = Path(__file__).parent
_TELL_PERIOD_S = 60.0


def rows_of(options: argparse.Namespace) -> list[Row]:
    """The suite's rows, with what the command line changes."""
    changed = {name: getattr(options, name) for name in ("seeds", "steps") if getattr(options, name) is not None}
    return [replace(row, **changed) for row in SUITES[options.suite]]


def refuse_stale(seeds: Sequence[Seed], options: argparse.Namespace) -> None:
    """End where finished runs were made with other settings than these."""
    for seed in seeds:
        done = figures_of(seed)
        if done is None:
            continue
        then, now = done["config"], json.loads(json.dumps(asdict(seed.row.config(options.threads))))
        changed = [
            f"{name} was {then.get(name)}, now {value}" for name, value in now.items() if then.get(name) != value
        ]
        if done["score"]["episodes"] != options.episodes:
            changed.append(f"episodes were {done['score']['episodes']}, now {options.episodes}")
        if changed:
            raise SystemExit(
                f"{seed.run} was made with other settings: {'; '.join(changed)}. Remove it, or give another --work"
            )


def start(seed: Seed, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Start a seed's process."""
    seed.run.parent.mkdir(parents=True, exist_ok=True)
    with seed.starts.open("a") as starts:
        starts.write(f"{options.jobs}\n")
    asked = {
        "row": seed.row.to_json(),
        "seed": seed.number,
        "suite": str(seed.suite),
        "threads": options.threads,
        "episodes": options.episodes,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    with seed.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(HERE / "returns_seed.py"), json.dumps(asked)],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's, which ends it without a checkpoint of that moment
        )


def run(seeds: Sequence[Seed], options: argparse.Namespace) -> list[Seed]:
    """Run what is not finished, so many at once; the seeds that failed."""
    waiting = [seed for seed in seeds if not seed.figures.exists()]
    say(f"{len(seeds) - len(waiting)} of {len(seeds)} seeds are finished in {options.work}")
    running: dict[Seed, subprocess.Popen[bytes]] = {}
    failed: list[Seed] = []
    told_s = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < options.jobs:
                seed = waiting.pop(0)
                say(f"{seed}: begins{_from(seed)}")
                running[seed] = start(seed, options)
            time.sleep(0.2)
            for seed in [seed for seed, process in running.items() if process.poll() is not None]:
                failed += [seed] if running.pop(seed).returncode != 0 else []
                say_end(seed)
            if time.monotonic() - told_s > _TELL_PERIOD_S:
                told_s = time.monotonic()
                for seed in running:
                    say(_progress(seed))
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    return failed


def say(line: str) -> None:
    """Say how far it is, on stderr: the table on stdout is what is kept."""
    print(line, file=sys.stderr, flush=True)


def say_end(seed: Seed) -> None:
    """Say what a seed came to."""
    done = figures_of(seed)
    if done is None:
        said = seed.log.read_text(errors="replace").strip().splitlines()[-1:]
        say(f"{seed}: FAILED: {' '.join(said)} ({seed.log})")
        return
    score = done["score"]
    mean = f"{score['mean_return']:,.1f} ± {score['std_return']:,.1f} over {score['episodes']} fresh episodes"
    say(f"{seed}: {mean}, best step {done['best_step']:,}, {done['training_s']:,.1f} s of training")


def _from(seed: Seed) -> str:
    lines = read_jsonl(seed.run / PROGRESS)
    return f", on from what a run left at step {lines[-1]['step']:,} or before" if lines else ""


def _progress(seed: Seed) -> str:
    """Progress of a seed that is running."""
    timing, evaluations = read_jsonl(seed.run / TIMING), curve_of(seed)
    if not timing:
        return f"{seed}: before its first {seed.row.config(1).log_period:,} steps"
    step, total = timing[-1]["step"], seed.row.total_steps
    if step >= total:
        return f"{seed}: trained, playing its episodes"
    speed = step / max(timing[-1]["elapsed_s"], 1e-9)
    returns = (
        f", evaluation {evaluations[-1][1]:,.1f}, best {max(m for _, m in evaluations):,.1f}" if evaluations else ""
    )
    left = f"about {(total - step) / speed / 60:,.0f} min left"
    return f"{seed}: step {step:,} of {total:,}{returns}, {speed:,.0f} steps/s, {left}"


def main() -> None:
    """Run a suite, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; seconds are only true of 1")
    parser.add_argument("--work", type=Path, default=Path("runs/returns"), help="where the run directories are kept")
    parser.add_argument("--seeds", type=int, help="of each row, in place of the suite's")
    parser.add_argument("--steps", type=int, help="of each seed, in place of the suite's")
    parser.add_argument("--episodes", type=int, default=100, help="fresh episodes that score a seed")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads of each process")
    parser.add_argument("--only", default="", help="run only rows with this in their env and algorithm")
    parser.add_argument("--name", help="of the files under results/; returns_SUITE unless given")
    parser.add_argument("--table", action="store_true", help="write what there is, and run nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows, suite = rows_of(options), options.work / options.suite
    by_row = [seeds_of(row, suite) for row in rows]
    refuse_stale([seed for seeds in by_row for seed in seeds], options)
    wanted = [seeds for row, seeds in zip(rows, by_row, strict=True) if options.only in f"{row.env} {row.label}"]
    # First seed 0 of every row, then seed 1: a table that is not complete has something in each row.
    in_turn = [
        seeds[number] for number in range(max(map(len, wanted), default=0)) for seeds in wanted if number < len(seeds)
    ]
    failed: list[Seed] = []
    interrupted = False
    if not options.table:
        try:
            failed = run(in_turn, options)
        except KeyboardInterrupt:
            interrupted = True
    report = Report(options.name or f"returns_{options.suite.replace('-', '_')}")
    tell(report, rows, suite, options.episodes, options.threads)
    for seed in failed:
        report.say(f"- {seed} failed")
    report.write()
    if interrupted:
        say("interrupted; the same command goes on")
    raise SystemExit(130 if interrupted else 1 if failed else 0)


if __name__ == "__main__":
    main()
