"""Run handling shared by fit and train: default directory, resume, graceful stop on signals."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torso.agents.runs.run_directory import RunDirectory, RunKind, is_free
from torso.cli.imports import with_imports
from torso.cli.parsing import option_value
from torso.cli.terminal.output import print_status
from torso.errors import RunError
from torso.interrupts import Interrupted, stoppable

T = TypeVar("T")


def default_out(*parts: object) -> Path:
    """Return ``runs/ENV-ALGORITHM-SEED``, in characters that every file system and served model names accept."""
    return Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(map(str, parts)))


def run_to_resume(arguments: Sequence[str], kind: RunKind, out: Path, needed: str) -> RunDirectory | None:
    """Return the run that ``--resume`` continues; None without --resume, or where ``out`` is free and one can begin.

    needed: the option that says what a new run is of, without which none can begin.

    Raises:
        RunError: what is there is no run, or one of another kind; or there is nothing, and ``needed`` is not given.
    """
    if "--resume" not in arguments:
        return None
    if is_free(out):
        reason = "it is empty" if out.exists() else "it does not exist"
        if option_value(arguments, needed) is None:
            raise RunError(
                f"{out} holds no run to resume: {reason}; give the out= of a run, or begin one with {needed}"
            )
        print_status(f"{out} holds no run to resume, {reason}: a new one begins")
        return None
    run = RunDirectory.open(out)
    run.require_kind(kind)
    return run


def config_of_run(run: RunDirectory, config_class: type[T]) -> T:
    """Return the configuration that a run was started with."""
    names: Any = config_class.__dataclass_fields__  # type: ignore[attr-defined]
    return config_class(**{name: value for name, value in run.settings.items() if name in names})


def run_until_stopped(command: str, out: Path, work: Callable[[Callable[[], bool]], str | None]) -> int:
    """Run ``work`` until it ends or a signal requests a stop; return the exit code.

    ``work(stop)`` calls ``stop()`` after each step. If that made it end early, with everything saved, it returns its
    progress as text. A second signal ends it at once; the last checkpoint stays.
    """
    resume_command = with_imports(f"torso {command} --out {shlex.quote(str(out))} --resume")
    with stoppable(saves_from_start=False) as request:
        try:
            stopped_at = work(request.requested)
        except Interrupted:
            if not is_free(out):  # else it ended before its first step
                print_status(f"stopped at once; to resume from the last checkpoint in {out}: {resume_command}")
            raise
    if stopped_at is not None:
        print_status(f"stopped at {stopped_at}, saved in {out}; to resume: {resume_command}")
    return request.exit_code
