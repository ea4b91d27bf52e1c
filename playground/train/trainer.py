"""Training process: one run, as ``torso train`` makes it, with its events on the standard output.

It stops in order, with a checkpoint, at the end of its standard input, so it does not outlive the playground.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from torso.playground.train.event_lines import EventLines

END_S = 60.0  # for what is under way, an evaluation or the final score, and the checkpoint
NICENESS = 5  # the page comes first


def main(settings: str) -> int:
    """Train until all steps are made, or the standard input ends."""
    stopping = threading.Event()
    threading.Thread(target=_await_stop, args=(stopping,), daemon=True).start()
    lines_out = _private_stdout()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    from torso.errors import TorsoError
    from torso.playground.train.event_lines import EventLines

    found = json.loads(settings)
    out = Path(found["out"])
    lines = EventLines(lines_out, out.with_name(f".networks-{out.name}"))
    if stopping.is_set():
        return 0
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())  # it ends this process until here, as nothing is written
    try:
        _train(found, out, lines, stopping.is_set)
    except (TorsoError, OSError) as error:
        lines.write("failed", text=str(error))
        return 2
    return 0


def _train(found: Mapping[str, Any], out: Path, lines: EventLines, stop: Callable[[], bool]) -> None:
    from torso.agents.runs.run_directory import RunDirectory
    from torso.agents.training.driver import Training
    from torso.agents.training.train_runs import config_of, train_run
    from torso.envs.vector.single_envs import load_recorded_wrapper
    from torso.envs.vector.world import World, recorded_env_kwargs
    from torso.playground.train.short_runs import short_config

    if found["resume"]:
        run = RunDirectory.open(out)
        run.require_kind("train")
        recorded = run.settings
        wrappers = [load_recorded_wrapper(name, f"the run in {out}") for name in recorded.get("wrappers", ())]
        world = World(env=recorded["env_id"], env_kwargs=recorded_env_kwargs(recorded), wrappers=wrappers)
        config, total, seed = config_of(recorded), int(recorded["total_steps"]), int(run.config["seed"])
        video_period = int(recorded.get("video_period", 0))
    else:
        from torso.agents.presets.lookup import preset

        env, algorithm = found["env"], found["algorithm"]
        world = World(env=env, env_kwargs=preset(algorithm, env).env_kwargs)
        total, seed, video_period = found["steps"], found["seed"], 0
        config = short_config(env, algorithm, total)
    has_begun = False

    def begin(training: Training) -> None:
        nonlocal has_begun
        has_begun = True
        lines.begin(training, total)

    try:
        trained = train_run(
            world,
            config,
            total_steps=total,
            seed=seed,
            out=out,
            resume=found["resume"],
            callbacks=[lines],
            video_period=video_period,
            on_begin=begin,
            on_event=lines.on_event,
            stop=stop,
        )
    finally:
        if has_begun:  # else the directory may be another run's
            lines.close()
    if trained.summary is None:
        lines.write("stopped", step=trained.total_steps)
        return
    score = trained.summary["score"] or {}
    lines.write(
        "done",
        step=trained.total_steps,
        mean=score.get("mean_return"),
        std=score.get("std_return"),
        num_episodes=score.get("episodes"),
        best_step=trained.summary["best_step"],
        warning=trained.summary.get("warning"),
    )


def _await_stop(stopping: threading.Event) -> None:
    while os.read(0, 1):
        pass
    stopping.set()
    time.sleep(END_S)
    os._exit(3)


def _private_stdout() -> TextIO:
    """Take the standard output for the events alone; what libraries print goes to the standard error."""
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
