"""What fit and train share: where a run goes, what a resumed one was begun with, how an interrupted one ends."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torso.agents.runs.run_directory import RunDirectory
from torso.cli.interrupts import Interrupted, stoppable
from torso.cli.output import say

T = TypeVar("T")


def default_out(*parts: object) -> Path:
    """``runs/ENV-ALGORITHM-SEED``, in characters that every file system and a served model's name take."""
    return Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(map(str, parts)))


def begun(arguments: Sequence[str], kind: str, out: Path) -> RunDirectory | None:
    """The run that ``--resume`` goes on with; None where nothing is to be resumed, or nothing of that kind is there."""
    if "--resume" not in arguments or not (out / "config.json").is_file():
        return None
    run = RunDirectory.open(out)
    return run if run.kind == kind else None


def settings_of(run: RunDirectory, config_class: type[T]) -> T:
    """The configuration that a run was begun with."""
    names: Any = config_class.__dataclass_fields__  # type: ignore[attr-defined]
    return config_class(**{name: value for name, value in run.settings.items() if name in names})


def until_stopped(command: str, out: Path, work: Callable[[Callable[[], bool]], str | None]) -> int:
    """Do a run's work; returns the exit code.

    ``work(stop)`` asks ``stop()`` after each step. Where that made it end early, all being saved, it returns how far it
    came. A second signal ends it at once, and what was saved last stays.
    """
    go_on = f"torso {command} --out {shlex.quote(str(out))} --resume"
    with stoppable() as request:
        try:
            stopped_at = work(request.requested)
        except Interrupted:
            say(f"stopped at once; to go on from the last checkpoint in {out}: {go_on}")
            raise
    if stopped_at is not None:
        say(f"stopped at {stopped_at}, saved in {out}; to go on: {go_on}")
    return request.exit_code
