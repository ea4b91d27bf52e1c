"""The agent of a training, watched: its newest network plays, and the last one stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playground_process import Playground
from playground_tabs import Tab, with_tabs

from torso.errors import ConfigError
from torso.playground.messages import TabMessage
from torso.playground.train.agent_stage import AgentStage


def test_newer_networks_take_over_and_the_best_one_stays(start: Callable[..., Playground], tmp_path: Path) -> None:
    running = start("--runs", str(tmp_path / "runs"))

    async def test(tab: Tab) -> None:
        await tab.say("train", "open")
        await tab.receive("choices", "train")
        fields = {"env": "CartPole-v1", "algorithm": "pqn", "steps": 60_000, "seed": 0, "name": "seen"}
        await tab.say("train", "begin", **fields)
        steps: list[int] = []
        frames: list[dict[str, Any]] = []
        phase = ""
        while phase != "done" or len(frames) < 20:
            found, body = await tab.any_of({"stage", "frame", "course"}, "train")
            if found["type"] == "stage":
                steps.append(found["step"])
            elif found["type"] == "frame":
                assert body.startswith(b"\x89PNG")
                assert (found["values"] is None) == found["over"]
                assert found["over"] or np.isfinite(found["values"]).all()
                frames.append(found)
                await tab.say("train", "frame-seen", serial=found["serial"])
            else:
                phase = found["phase"]
                await tab.say("train", "seen")
        assert len(steps) >= 3
        assert steps[0] == 0
        assert max(steps) > 10_000
        assert frames[-1]["serial"] == len(frames)
        await tab.say("train", "hide", on=True)
        await tab.say("train", "frame-seen", serial="x")
        assert "serial must be" in (await tab.receive("error", "train"))[0]["text"]

    with_tabs(running, test)
    running.end()


def test_a_run_that_is_looked_at_is_played(start: Callable[..., Playground], tmp_path: Path) -> None:
    from torso.agents import DQN

    DQN("torso/Forager-v0", min_replay_size=64).learn(200, out=tmp_path / "runs" / "short")
    running = start("--runs", str(tmp_path / "runs"))

    async def test(tab: Tab) -> None:
        await tab.say("train", "look", name="short")
        assert (await tab.receive("stage", "train"))[0]["step"] == 200
        found, _ = await tab.receive("frame", "train")
        assert len(found["values"]) == 5

    with_tabs(running, test)
    running.end()


def test_a_stage_takes_serials_alone() -> None:
    stage = AgentStage(None)  # type: ignore[arg-type]  # it is not run
    stage.put(TabMessage("train", "hide", {"on": True}))
    stage.put(TabMessage("train", "frame-seen", {"serial": 3}))
    with pytest.raises(ConfigError, match="serial must be a whole number"):
        stage.put(TabMessage("train", "frame-seen", {}))
