"""Runs of the page: the driver's own bits and events, stops and resumes, names, bad messages, the course."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from train_tabs import SHORT, read_lines, weights

from torso.agents import Callback, Tick, World, train_run
from torso.errors import ConfigError, RunError
from torso.nets import load_model
from torso.playground.messages import TabMessage
from torso.playground.train.course import TrainingCourse
from torso.playground.train.live_runs import LiveRuns
from torso.playground.train.run_folder import RunFolder
from torso.playground.train.short_runs import ShortRun, parse_short_run, short_config, train_command
from torso.playground.train.training import Train

OUTSIDE = (
    "../x",
    "a/b",
    "/etc",
    ".hidden",
    "..",
    "",
    "a" * 65,
    "x\n",
    "a\0b",
    "a\\b",
    "x.",
    "C:x",
    "ü",
    None,
    5,
    ["x"],
)


@pytest.mark.parametrize(
    ("env", "algorithm"), [("CartPole-v1", "pqn"), ("CartPole-v1", "n-step"), ("torso/Forager-v0", "dqn")]
)
def test_a_watched_run_is_torso_trains_own_bit_for_bit(env: str, algorithm: str, tmp_path: Path) -> None:
    run = ShortRun(env=env, algorithm=algorithm, steps=6_000, seed=5)
    settings = {"env": env, "algorithm": algorithm, "steps": run.steps, "seed": run.seed, "resume": False}
    command = [
        sys.executable,
        "-m",
        "torso.playground.train.trainer",
        json.dumps({**settings, "out": f"{tmp_path / 'a'}"}),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        events = [json.loads(line) for line in process.stdout]
    assert process.returncode == 0
    own = shlex.split(train_command(run, str(tmp_path / "b")))
    subprocess.run([sys.executable, "-m", *own], check=True, capture_output=True)

    watched, alone = tmp_path / "a", tmp_path / "b"
    assert weights(watched) == weights(alone)
    names = {path.relative_to(alone).as_posix() for path in alone.rglob("*") if path.parent.name != "tensorboard"}
    assert names == {
        path.relative_to(watched).as_posix() for path in watched.rglob("*") if path.parent.name != "tensorboard"
    }
    for name in ("progress.jsonl", *(each for each in names if each.startswith("checkpoint/") and "tensors" in each)):
        assert (watched / name).read_bytes() == (alone / name).read_bytes()
    mine, theirs = (json.loads((path / "config.json").read_text()) for path in (watched, alone))
    assert {name for name in mine if mine[name] != theirs[name]} <= {"command", "created_at"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]  # no network is left beside them

    # The events are the log's own figures.
    logged = [line for line in read_lines(alone / "progress.jsonl") if "evaluation_return" not in line]
    told = [event for event in events if event["type"] == "figures"]
    assert [{name: value for name, value in event.items() if name != "type"} for event in told] == logged
    evaluated = [line for line in read_lines(alone / "progress.jsonl") if "evaluation_return" in line]
    assert len(evaluated) >= 10
    assert [
        (event["step"], event["mean"], event["low"], event["high"], event["is_best"])
        for event in events
        if event["type"] == "evaluation"
    ] == [
        (line["step"], *(line[f"evaluation_{name}"] for name in ("return", "min", "max")), line["is_best"])
        for line in evaluated
    ]
    episodes = [episode for event in events if event["type"] == "steps" for episode in event["episodes"]]
    summary = json.loads((alone / "summary.json").read_text())
    assert len(episodes) == summary["num_episodes"]
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-2:]) == ("began", ["scoring", "done"])
    assert kinds.count("network") >= 11
    assert kinds.index("evaluating") < kinds.index("evaluation")
    assert events[-1]["mean"] == summary["score"]["mean_return"]


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, tick: Tick) -> bool:
        return tick.total_steps >= self.step


async def follow(
    runs: LiveRuns, course: TrainingCourse, settings: dict[str, Any], stops: bool
) -> list[tuple[Path, int]]:
    """Train to the end, or stop once it learns."""
    networks: list[tuple[Path, int]] = []

    def look() -> None:
        if stops and course.phase == "learning" and course.step > 3_000:
            live.stop()

    live = runs.begin(course, settings, look, lambda path, step: networks.append((path, step)))
    await live.has_ended.wait()
    return networks


def test_a_run_that_is_stopped_goes_on_as_torso_trains_does(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs")
    run = ShortRun(env="CartPole-v1", algorithm="n-step", steps=8_000, seed=2)
    settings = {"env": run.env, "algorithm": run.algorithm, "steps": run.steps, "seed": run.seed, "resume": False}

    async def stop_and_go_on() -> tuple[TrainingCourse, TrainingCourse]:
        runs = LiveRuns(folder)
        first = folder.new_course(run)
        networks = await follow(runs, first, settings, stops=True)
        assert first.phase == "stopped"
        assert networks[-1] == (Path(first.path) / "model", first.step)
        second = folder.read_course(first.name)
        assert second.step <= first.step
        networks = await follow(runs, second, {"resume": True}, stops=False)
        assert networks[-1][0] == Path(first.path) / "best"
        load_model(networks[-1][0])
        assert runs.names == set()
        return first, second

    first, second = asyncio.run(stop_and_go_on())
    assert (first.name, second.phase) == ("cartpole-n-step-2", "done")
    assert 3_000 < first.step < run.steps
    config, reference = short_config(run.env, run.algorithm, run.steps), tmp_path / "reference"
    for resume in (False, True):
        train_run(
            World(env=run.env),
            config,
            total_steps=run.steps,
            seed=run.seed,
            out=reference,
            resume=resume,
            callbacks=[] if resume else [StopAt(first.step)],
        )
    made = tmp_path / "runs" / first.name
    assert weights(made) == weights(reference)
    assert (made / "progress.jsonl").read_bytes() == (reference / "progress.jsonl").read_bytes()
    assert [point[0] for point in second.evaluations] == [
        line["step"] for line in read_lines(made / "progress.jsonl") if "evaluation_return" in line
    ]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [first.name]


def test_names_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs")
    folder.make()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    (tmp_path / "runs" / "link").symlink_to(outside)
    for name in OUTSIDE:
        with pytest.raises(ConfigError, match="must be up to 64 letters"):
            folder.place(name)
        if name != "":  # which asks for a free one
            with pytest.raises(ConfigError, match="must be up to 64 letters"):
                parse_short_run({**SHORT, "name": name})
        for use in (folder.read_course, lambda each: folder.save(each, "x"), lambda each: folder.save("x", each)):
            with pytest.raises(ConfigError, match="must be up to 64 letters"):
                use(name)
    for use in (folder.read_course, lambda each: folder.save(each, "x")):
        with pytest.raises(RunError, match="must be a run"):
            use("link")
    with pytest.raises(ConfigError, match=r"which .* has already"):
        folder.require_free("link")
    assert folder.entries(set()) == []
    assert folder.free_name("link") == "link.2"


def message(kind: str, **fields: Any) -> TabMessage:
    return TabMessage(part="train", type=kind, fields={"part": "train", "type": kind, **fields})


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("dance", {}, "type must be one of"),
        ("begin", {}, "env must be one of"),
        ("begin", {**SHORT, "env": "ALE/Pong-v5"}, "env must be one of"),
        ("begin", {**SHORT, "algorithm": "rainbow"}, "algorithm must be one of"),
        ("begin", {**SHORT, "algorithm": ["pqn"]}, "algorithm must be one of"),
        ("begin", {**SHORT, "steps": 10}, "steps must be a whole number of at least 5000"),
        ("begin", {**SHORT, "steps": 1e12}, "steps must be a whole number"),
        ("begin", {**SHORT, "steps": "many"}, "steps must be a whole number"),
        ("begin", {**SHORT, "seed": -1}, "seed must be a whole number"),
        ("begin", {**SHORT, "seed": True}, "seed must be a whole number"),
        ("begin", {**SHORT, "name": "../x"}, "the run's name must be"),
        ("resume", {"name": "a/b"}, "the run's name must be"),
        ("look", {}, "the run's name must be"),
        ("save", {"run": "x", "name": "/etc/x"}, "the model's name must be"),
    ],
)
def test_bad_messages_are_refused_in_words(kind: str, fields: dict[str, Any], words: str, tmp_path: Path) -> None:
    async def test() -> None:
        async def send(type: str, body: bytes | None = None, **fields: Any) -> None:
            raise AssertionError(type)

        with pytest.raises(ConfigError, match=words):
            Train(LiveRuns(RunFolder(tmp_path)), send).put(message(kind, **fields))

    asyncio.run(test())


def test_speed_and_curves_of_a_course() -> None:
    now = [0.0]
    course = TrainingCourse(
        name="a", path="runs/a", env="CartPole-v1", algorithm="pqn", seed=0, total=1_000, clock=lambda: now[0]
    )
    course.read([{"step": each, "episode_return": 1.0, "loss": 0.5} for each in (100, 200, 300)])
    course.apply({"type": "began", "step": 200, "total": 2_000, "learns": False})
    assert [point[0] for point in course.figures] == [100, 200]  # the third comes after the checkpoint
    assert course.phase == "collecting"
    now[0] = 2.0
    course.apply({"type": "steps", "step": 300, "learns": True, "episodes": [[250, 9.0]]})
    found = course.to_json()
    assert (found["phase"], found["rate"], found["remaining_s"]) == ("learning", 50.0, 34.0)
    assert course.take_episodes() == [[250, 9.0]]
    assert course.take_episodes() == []
    course.apply({"type": "evaluating", "step": 300})
    now[0] = 50.0
    course.apply({"type": "evaluation", "step": 300, "mean": 7.0, "low": 1.0, "high": 9.0, "is_best": True})
    assert course.to_json()["rate"] == 50.0  # no steps are made in an evaluation
    assert course.best == (7.0, 300)
    course.stop()
    course.apply({"type": "steps", "step": 310, "learns": True, "episodes": []})
    assert course.to_json()["text"].startswith("stopping")
    course.apply({"type": "stopped", "step": 310})
    assert course.to_json()["text"] == "stopped at step 310; it can go on from there"
    course.stop()
    assert course.phase == "stopped"
