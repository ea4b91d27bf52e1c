"""Tabs that train: what they are told, what lies in the folder, and what ends when they or the playground do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playground_process import Playground
from playground_tabs import Tab, with_tabs
from train_tabs import LONG, SHORT, course_until, hear, is_over, learns, read_lines, say, trainers

from torso.nets import load_model


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_tab_trains_saves_and_sees_its_folder(start: Callable[..., Playground], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "runs"
    playground = start("--runs", str(folder))

    async def test(tab: Tab) -> None:
        await say(tab, "open")
        choices = await hear(tab, "choices")
        assert choices["folder"] == str(folder)
        assert [each["env"] for each in choices["envs"]][:2] == ["CartPole-v1", "torso/Forager-v0"]
        assert (await hear(tab, "runs"))["runs"] == []
        assert not folder.exists()  # until there is something to write

        await say(tab, "begin", **SHORT, name="mine")
        course = await course_until(tab, is_over)
        assert course["phase"] == "done", course
        lines = read_lines(folder / "mine" / "progress.jsonl")
        figures = [line for line in lines if "evaluation_return" not in line]
        assert course["figures"] == [[line["step"], line["episode_return"], line["loss"]] for line in figures]
        assert [point[:2] for point in course["evaluations"]] == [
            [line["step"], line["evaluation_return"]] for line in lines if "evaluation_return" in line
        ]
        summary = json.loads((folder / "mine" / "summary.json").read_text())
        assert f"mean return {summary['score']['mean_return']:,.1f} over 20" in course["text"]
        assert len(course["episodes"]) == summary["num_episodes"]

        await say(tab, "save", run="mine", name="champion")
        saved = await hear(tab, "saved", "error")
        assert saved["path"] == str(folder / "champion"), saved
        assert f"torso play --model {folder / 'champion'}" in saved["commands"]
        weights = [(folder / name / "weights.safetensors").read_bytes() for name in ("champion", "mine/best")]
        assert weights[0] == weights[1]
        card, _ = load_model(folder / "champion")
        assert card.provenance["env_id"] == "CartPole-v1"
        assert (folder / "champion" / "model.onnx").is_file()
        for kind, fields in (("save", {"run": "mine", "name": "mine"}), ("begin", {**SHORT, "name": "champion"})):
            await say(tab, kind, **fields)
            assert "has already; choose another" in (await hear(tab, "error"))["text"]
        for kind, fields in (
            ("resume", {"name": "champion"}),
            ("look", {"name": "none"}),
            ("save", {"run": "no", "name": "x"}),
        ):
            await say(tab, kind, **fields)
            assert "must be a run" in (await hear(tab, "error"))["text"]

        await say(tab, "open")
        found = {run["name"]: run["state"] for run in (await hear(tab, "runs"))["runs"]}
        assert found == {"mine": "done", "champion": "model"}
        await say(tab, "look", name="mine")
        looked = await course_until(tab, lambda found: found["is_fresh"])
        assert (looked["figures"], looked["evaluations"]) == (course["figures"], course["evaluations"])
        assert sorted(path.name for path in folder.iterdir()) == ["champion", "mine"]

    with_tabs(playground, test)
    playground.end()


def test_a_tab_that_goes_away_leaves_a_run_that_goes_on(start: Callable[..., Playground], tmp_path: Path) -> None:
    playground = start("--runs", str(tmp_path))
    settings = {**SHORT, "steps": 200_000, "name": "left"}
    steps = 0

    async def leave(tab: Tab) -> None:
        nonlocal steps
        await say(tab, "begin", **settings)
        steps = (await course_until(tab, learns))["step"]
        assert len(trainers(playground)) == 1

    with_tabs(playground, leave)
    wait_for(lambda: not trainers(playground))
    assert json.loads((tmp_path / "left" / "checkpoint" / "latest.json").read_text())["step"] >= steps
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left"]

    async def go_on(tab: Tab) -> None:
        await say(tab, "open")
        run: dict[str, Any] = {"state": "running"}
        while run["state"] == "running":  # its process has ended, which the playground hears of soon
            [run] = (await hear(tab, "runs"))["runs"]
        assert (run["name"], run["state"]) == ("left", "unfinished")
        assert run["step"] >= steps
        await say(tab, "resume", name="left")
        course = await course_until(tab, lambda found: learns(found) and found["step"] > run["step"])
        assert course["figures"][0][0] < run["step"]  # what was there is shown
        await say(tab, "stop")
        assert (await course_until(tab, is_over))["phase"] == "stopped"

    with_tabs(playground, go_on)
    playground.end()


def test_a_few_train_at_once_and_no_two_in_one_directory(start: Callable[..., Playground], tmp_path: Path) -> None:
    playground = start("--runs", str(tmp_path))

    async def test(first: Tab, second: Tab, third: Tab) -> None:
        await say(first, "begin", **LONG, name="one")
        await course_until(first, lambda course: course["step"] > 0)
        await say(first, "begin", **LONG, name="two")
        assert "one run at a time" in (await hear(first, "error"))["text"]
        for kind in ("resume", "look"):
            await say(second, kind, name="one")
            assert "another tab trains" in (await hear(second, "error"))["text"]
        await say(second, "begin", **LONG, name="two")
        await course_until(second, lambda course: course["phase"] == "starting")
        await say(third, "begin", **LONG, name="three")
        assert "at most 2 runs may be under way at once, got one, two" in (await hear(third, "error"))["text"]
        await say(second, "stop")  # before it has begun, most likely, or after: both are ends in order
        assert (await course_until(second, is_over))["phase"] == "stopped"
        await say(third, "begin", **LONG, name="three")
        await course_until(third, lambda course: course["step"] > 0)
        assert len(trainers(playground)) == 2

    with_tabs(playground, test, count=3)
    wait_for(lambda: not trainers(playground))
    playground.end()


@pytest.mark.parametrize("is_killed", [True, False])
def test_no_training_outlives_the_playground(start: Callable[..., Playground], tmp_path: Path, is_killed: bool) -> None:
    playground = start("--runs", str(tmp_path))

    async def test(tab: Tab) -> None:
        await say(tab, "begin", **LONG, name="left")
        await course_until(tab, learns)
        [process] = trainers(playground)
        if is_killed:
            playground.process.kill()
            playground.process.wait()
            wait_for(lambda: not process.is_running() or process.status() == "zombie")
        else:
            playground.end()
            assert not process.is_running()

    with_tabs(playground, test)
    assert (tmp_path / "left" / "checkpoint" / "latest.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left"]


def test_what_fails_is_told_in_words(start: Callable[..., Playground], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    playground = start("--runs", str(tmp_path / "file" / "runs"))

    async def cannot_write(tab: Tab) -> None:
        await say(tab, "begin", **SHORT)
        assert "cannot create the directory" in (await hear(tab, "error"))["text"]

    with_tabs(playground, cannot_write)
    playground.end()


def test_a_training_that_dies_is_told_in_words(start: Callable[..., Playground], tmp_path: Path) -> None:
    playground = start("--runs", str(tmp_path))

    async def test(tab: Tab) -> None:
        await say(tab, "begin", **LONG, name="run")
        await course_until(tab, learns)
        trainers(playground)[0].kill()
        course = await course_until(tab, is_over)
        assert course["phase"] == "failed"
        assert "the training's process ended with -9" in course["text"]
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        config["settings"]["env_id"] = "None-v0"
        (tmp_path / "run" / "config.json").write_text(json.dumps(config))
        await say(tab, "resume", name="run")
        course = await course_until(tab, is_over)
        assert course["phase"] == "failed"
        assert "None-v0" in course["text"]

    with_tabs(playground, test)
    playground.process.terminate()
    _, stderr = playground.process.communicate(timeout=30)
    assert "a training ended with -9" in stderr


def test_a_tab_that_is_behind_gets_the_newest_alone(start: Callable[..., Playground], tmp_path: Path) -> None:
    playground = start("--runs", str(tmp_path))

    async def test(tab: Tab) -> None:
        await say(tab, "begin", **SHORT, name="run")
        assert (await hear(tab, "course"))["phase"] == "starting"
        second = asyncio.create_task(hear(tab, "course"))
        await asyncio.to_thread(wait_for, (tmp_path / "run" / "summary.json").is_file)
        await asyncio.to_thread(wait_for, lambda: not trainers(playground))
        await asyncio.sleep(1)
        assert not second.done()  # the first one was not taken
        await say(tab, "seen")
        assert is_over(await second)

    with_tabs(playground, test)
    playground.end()
