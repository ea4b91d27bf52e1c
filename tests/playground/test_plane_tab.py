"""Messages of a tab in Two dimensions: its training, its snapshots, its thread."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from plane_trainers import TOO_FAST
from playground_process import Playground
from playground_tabs import Tab, packed, with_tabs

from torso.errors import ConfigError
from torso.playground.messages import TabMessage
from torso.playground.plane.plane_tab import PATIENCE_S, THREAD, PlaneTab
from torso.playground.plane.points import (
    ready_set,
)


class Recorder:
    """Tab that records what it is sent, and sees its snapshots, or does not."""

    def __init__(self, *, sees: bool = True) -> None:
        self.sent: list[dict[str, Any]] = []
        self.sees = sees
        self.plane = PlaneTab(self)

    async def __call__(self, type: str, body: bytes | None = None, **fields: Any) -> None:
        self.sent.append({"type": type, "body": body, **fields})
        if type == "snapshot" and self.sees:
            self.put("seen", serial=fields["serial"])

    def put(self, type: str, body: bytes = b"", **fields: Any) -> None:
        self.plane.put(TabMessage("plane", type, {"part": "plane", "type": type, **fields}, body))

    def begin(self, name: str, **settings: Any) -> None:
        points = ready_set(name)
        self.put("begin", points.packed(), num_classes=points.num_classes, **settings)

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a message of which something holds; those before it are forgotten."""
        async with asyncio.timeout(60):
            while True:
                while self.sent:
                    if condition(message := self.sent.pop(0)):
                        return message
                await asyncio.sleep(0.01)


def with_recorder(test: Callable[[Recorder], Awaitable[None]], *, sees: bool = True) -> None:
    async def run() -> None:
        tab = Recorder(sees=sees)
        work = asyncio.create_task(tab.plane.run())
        try:
            await test(tab)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        async with asyncio.timeout(30):
            while any(thread.name.startswith(THREAD) for thread in threading.enumerate()):
                await asyncio.sleep(0.01)  # a slice ends; then so does the thread

    asyncio.run(run())


def test_it_trains_until_it_is_paused() -> None:
    async def test(tab: Recorder) -> None:
        tab.put("speed", speed="fast")
        tab.begin("xor", number=3)
        first = await tab.until(lambda message: message["type"] == "snapshot")
        assert (first["step"], first["number"], first["is_training"], first["num_classes"]) == (0, 3, False, 2)
        tab.put("step")
        assert (await tab.until(lambda message: message["type"] == "snapshot"))["step"] == 1
        tab.put("train", on=True)
        await tab.until(lambda message: message.get("accuracy") == 1.0)
        tab.put("train", on=False)
        last = await tab.until(lambda message: message.get("is_training") is False)
        await asyncio.sleep(0.2)
        assert all(message["step"] == last["step"] for message in tab.sent)
        tab.begin("xor", number=4, hidden=[3])
        again = await tab.until(lambda message: message.get("number") == 4)
        assert (again["step"], again["hidden"]) == (0, (3,))

    with_recorder(test)


def test_a_tab_that_is_closed_while_it_trains_ends_its_thread() -> None:
    async def test(tab: Recorder) -> None:
        tab.put("speed", speed="fast")
        tab.begin("spirals", hidden=[32, 32, 32, 32])
        tab.put("train", on=True)
        await tab.until(lambda message: message.get("step", 0) > 50)
        assert any(thread.name.startswith(THREAD) for thread in threading.enumerate())

    with_recorder(test)  # which looks for threads afterwards


def test_what_is_not_seen_is_not_sent_and_the_training_waits() -> None:
    async def test(tab: Recorder) -> None:
        tab.begin("circles")
        tab.put("train", on=True)
        first = await tab.until(lambda message: message["type"] == "snapshot")
        await asyncio.sleep(PATIENCE_S + 0.5)
        trainer = tab.plane._trainer
        assert trainer is not None
        waits_at = trainer.step
        await asyncio.sleep(0.5)
        assert (trainer.step, tab.sent) == (waits_at, [])
        tab.put("seen", serial=first["serial"] + 1)  # another one than was sent
        await asyncio.sleep(0.2)
        assert (trainer.step, tab.sent) == (waits_at, [])
        tab.put("seen", serial=first["serial"])
        second = await tab.until(lambda message: message["type"] == "snapshot")
        assert second["step"] >= waits_at

    with_recorder(test, sees=False)


def test_a_divergence_is_told_and_starting_again_works() -> None:
    async def test(tab: Recorder) -> None:
        tab.put("speed", speed="fast")
        tab.begin("spirals", **TOO_FAST)
        tab.put("train", on=True)
        trouble = await tab.until(lambda message: message["type"] == "trouble")
        assert "smaller learning rate" in trouble["text"]
        stopped = await tab.until(lambda message: message.get("has_diverged") is True)
        assert (stopped["loss"], stopped["is_training"]) == (None, False)
        tab.put("train", on=True)  # nothing but the same words
        await tab.until(lambda message: message["type"] == "trouble")
        tab.begin("xor")
        tab.put("train", on=True)
        await tab.until(lambda message: message.get("accuracy") == 1.0)

    with_recorder(test)


def test_bad_messages_break_nothing() -> None:
    async def test(tab: Recorder) -> None:
        for kind in ("points", "train", "step"):
            with pytest.raises(ConfigError, match="must be begin"):
                tab.put(kind, on=True)
        tab.begin("clouds", hidden=[4])
        await tab.until(lambda message: message["type"] == "snapshot")
        for kind, fields, text in (
            ("wish", {}, "type must be one of"),
            ("set", {"name": "stars"}, "a ready set must be one of"),
            ("speed", {"speed": 3}, "speed must be one of"),
            ("train", {"on": "yes"}, "True or False"),
            ("look", {"layer": 9, "unit": 0}, "layer must be a whole number of at most 3"),
            ("look", {"layer": 0}, "a unit must be a whole number"),
            ("begin", {"hidden": "8"}, "hidden must be a tuple"),
        ):
            with pytest.raises(ConfigError, match=text):
                tab.put(kind, **fields)
        with pytest.raises(ConfigError, match="class must be one of 0 to 1, got 2"):
            tab.put("points", struct.pack("<3f", 0, 0, 2))
        tab.put("look", layer=3, unit=31)  # which this network does not have
        assert (await tab.until(lambda message: message["type"] == "snapshot"))["looked"] is None
        tab.put("look", layer=0, unit=3)
        assert (await tab.until(lambda message: message["type"] == "snapshot"))["looked"] == (0, 3)

    with_recorder(test)


def test_two_tabs_have_networks_of_their_own(playground: Playground) -> None:
    async def test(first: Tab, second: Tab) -> None:
        for tab, name in ((first, "xor"), (second, "four-clouds")):
            await tab.say("plane", "set", name=name)
            header, body = await tab.receive("set", "plane")
            assert header["name"] == name
            begin = {"part": "plane", "type": "begin", "hidden": [6], "num_classes": header["num_classes"]}
            await tab.socket.send_bytes(packed(begin, body))
        await first.say("plane", "train", on=True)
        for _ in range(8):
            header, body = await first.receive("snapshot", "plane")
            assert (header["num_classes"], len(body)) == (2, 2 * 3600 + 6 * 400 + 4 * (6 + 6 * 3 + 7))
            await first.say("plane", "seen", serial=header["serial"])
        assert header["step"] > 0
        header, _ = await second.receive("snapshot", "plane")
        assert (header["num_classes"], header["step"], header["is_training"]) == (4, 0, False)
        await second.socket.send_bytes(packed({"part": "plane", "type": "points"}, b"odd"))
        with pytest.raises(AssertionError, match="three float32 each"):
            await second.receive("snapshot", "plane")
        await second.say("plane", "seen", serial=header["serial"])
        await second.say("plane", "step")
        assert (await second.receive("snapshot", "plane"))[0]["step"] == 1

    with_tabs(playground, test, count=2)
