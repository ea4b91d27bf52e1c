"""Progress bar on a terminal, progress lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from torso.agents.protocols import Episode
from torso.agents.runs import progress as progress_module
from torso.agents.runs.events import Checkpointed, Evaluated, Evaluation, Logged, Tick
from torso.agents.runs.progress import TrainingProgress
from torso.agents.supervised.fit_progress import FitProgress
from torso.agents.supervised.fitting import BatchDone, EpochDone

EVENTS = [
    Episode(total_steps=20, env=0, episode_return=20.0, length_steps=20),
    Logged(total_steps=100, figures={"episode_return": 20.5}),
    Evaluated(total_steps=200, evaluation=Evaluation(returns=(30.0, 40.0), lengths_steps=(30, 40)), is_best=True),
    Checkpointed(total_steps=200),
]


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Open a pseudo-terminal as stderr; yield a function that returns the text shown on it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 4096):
                shown.extend(chunk)
        except OSError:  # Linux raises it when the other side is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    stream = os.fdopen(theirs, "w", encoding="utf-8")
    monkeypatch.setattr("sys.stderr", stream)

    def text() -> str:
        stream.close()
        reader.join()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())

    yield text
    monkeypatch.undo()
    os.close(ours)


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        with TrainingProgress(400, "a preface") as progress:
            for event in EVENTS:
                progress.on_event(event)
        text = shown()
    assert text.count("a preface") == 1
    last = text.rstrip().splitlines()[-1]
    assert re.search(r"^step [━╸╺ ]+ 50% return 20\.5  greedy 35\.0  [\d,]+ steps/s", last), text


def test_the_bar_moves_between_events_and_a_resumed_run_does_not_begin_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    with terminal(monkeypatch) as shown:
        with TrainingProgress(1_000) as progress:
            for step in range(500, 800):
                clock.now += 0.1
                progress.on_step(Tick(steps_before=step - 1, total_steps=step, episodes=(), updates=()))
        text = shown()
    last = text.rstrip().splitlines()[-1]
    assert re.search(r"^step [━╸╺ ]+ 80% 10 steps/s +\S*\d:\d\d$", last), text  # with the time that is left
    assert " 50% " in text
    assert " 0% " not in text


def test_the_speed_is_that_of_late(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Learning begins later than acting, and is slower."""
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    with TrainingProgress(10_000) as progress:
        step = 0
        for per_second in [100] * 30 + [20] * 30:
            clock.now, step = clock.now + 1, step + per_second
            progress.on_step(Tick(steps_before=0, total_steps=step, episodes=(), updates=()))
    lines = capsys.readouterr().err.splitlines()
    assert lines[5] == "step 3,000/10,000  100 steps/s"
    assert lines[-1].endswith("  20 steps/s")


class Clock:
    """Fake clock that tests advance."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


def test_a_fits_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        with FitProgress(4) as progress:
            progress.on_event(EpochDone(epoch=1, loss=0.25, validation=None, is_best=True, learning_rate=0.1))
            progress.on_event(BatchDone(2, 1, 2))
        text = shown()
    assert re.search(r"^epoch [━╸╺ ]+ 38% loss 0\.2500", text.rstrip().splitlines()[-1]), text


def test_no_line_comes_soon_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(400, "a preface") as progress:
        for event in EVENTS:
            progress.on_event(event)
    assert capsys.readouterr().err == "a preface\n"


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress_module, "_LINE_PERIOD_S", 0.0)
    with TrainingProgress(400) as progress:
        for event in EVENTS:
            progress.on_event(event)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:3] for line in lines[:2]] == [
        ["step 100/400", "return 20.5", lines[0].split("  ")[2]],
        ["step 200/400", "return 20.5", "greedy 35.0"],
    ]
    assert all(line.endswith(" steps/s") for line in lines)


@pytest.mark.parametrize("validation", [None, "some"])
def test_a_fits_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], validation: Any) -> None:
    from torso.agents.supervised.learner import Score

    monkeypatch.setattr(progress_module, "_LINE_PERIOD_S", 0.0)
    score = None if validation is None else Score(accuracy=0.5, loss=1.0)
    with FitProgress(4) as progress:
        progress.on_event(BatchDone(1, 1, 2))
        progress.on_event(EpochDone(epoch=1, loss=0.25, validation=score, is_best=True, learning_rate=0.1))
    expected = "epoch 1/4  loss 0.2500" + ("" if score is None else "  validation 50.00%")
    assert capsys.readouterr().err == expected + "\n"
