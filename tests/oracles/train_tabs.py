"""Tabs that train, as a program: they take the news of their run as the page does, and keep its curves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from playground_process import Playground
from playground_tabs import Tab

WAIT_S = 120.0
SHORT = {"env": "CartPole-v1", "algorithm": "pqn", "steps": 20_000, "seed": 3}
LONG = {"env": "torso/Forager-v0", "algorithm": "dqn", "steps": 2_000_000, "seed": 0}


async def say(tab: Tab, kind: str, **fields: Any) -> None:
    await tab.say("train", kind, **fields)


async def hear(tab: Tab, *kinds: str) -> dict[str, Any]:
    """Next message of one of these kinds to this part; news of a run that comes before it is taken."""
    while True:
        received = await asyncio.wait_for(tab.socket.receive(), WAIT_S)
        if received.type is aiohttp.WSMsgType.BINARY:
            continue  # a frame of the agent's game
        message = received.json()
        if message["part"] == "train" and message["type"] in kinds:
            return dict(message)
        if message["part"] == "train" and message["type"] == "course":
            await say(tab, "seen")


async def course_until(tab: Tab, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Follow the run until a message about it fulfils a condition; its curves are those of all messages."""
    curves: dict[str, list[Any]] = {}
    while True:
        course = await hear(tab, "course", "error")
        assert course["type"] == "course", course
        await say(tab, "seen")
        for name in ("figures", "evaluations", "episodes"):
            curves[name] = [*([] if course["is_fresh"] else curves.get(name, [])), *course[name]]
        if condition(course):
            return {**course, **curves}


def is_over(course: dict[str, Any]) -> bool:
    return course["phase"] in ("done", "stopped", "failed")


def learns(course: dict[str, Any]) -> bool:
    return course["phase"] == "learning" and course["step"] > 3_000


def trainers(playground: Playground) -> list[psutil.Process]:
    """Processes that train for a playground."""
    found = []
    for process in psutil.Process(playground.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ends just now
            if any("trainer" in word for word in process.cmdline()):
                found.append(process)
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a log of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(run: Path) -> dict[str, bytes]:
    """The networks of a run, byte by byte."""
    return {name: (run / name / "weights.safetensors").read_bytes() for name in ("model", "best")}
