"""Two dimensions: points, settings, the trainer and its snapshots, and a tab's messages."""

from __future__ import annotations

import asyncio
import re
import struct
import threading
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from playground_process import Playground
from playground_tabs import Tab, packed, with_tabs

from torso.agents.optim.optimizers import OPTIMIZERS
from torso.envs.datasets.toys import load_toy
from torso.errors import ConfigError
from torso.nets.modules.label_heads import LogitsHead, SigmoidHead
from torso.nets.specs.torsos import ACTIVATIONS
from torso.playground.messages import TabMessage
from torso.playground.plane.plane_settings import PLANE_OPTIMIZERS, REGULARISATIONS, PlaneSettings
from torso.playground.plane.plane_tab import PATIENCE_S, SPEEDS, THREAD, PlaneTab
from torso.playground.plane.plane_trainer import MAP_SIDE, SURFACE_SIDE, PlaneTrainer, plane_grid
from torso.playground.plane.points import (
    EXTENT,
    MOST_POINTS,
    READY_POINTS,
    READY_SETS,
    PlanePoints,
    parse_points,
    ready_set,
)

PAGE = Path(__file__).parents[2] / "playground" / "static" / "index.html"
NO_POINTS = PlanePoints(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64))


def trainer_of(name: str, **settings: Any) -> PlaneTrainer:
    points = ready_set(name)
    return PlaneTrainer(PlaneSettings(num_classes=points.num_classes, **settings), points)


# -- points ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READY_SETS)
def test_a_ready_set_fills_the_plane(name: str) -> None:
    points = ready_set(name)
    assert len(points) == READY_POINTS
    assert 0.8 * EXTENT < np.abs(points.inputs).max() < EXTENT
    counts = np.bincount(points.labels)
    assert len(counts) == points.num_classes
    assert counts.min() > 0.8 * counts.max()
    again = parse_points(points.packed())
    np.testing.assert_array_equal(again.inputs, points.inputs)
    np.testing.assert_array_equal(again.labels, points.labels)


def test_the_toys_are_torso_s_own() -> None:
    toy = load_toy("spirals")
    points = ready_set("spirals")
    np.testing.assert_allclose(points.inputs, 1.8 * np.asarray(toy.inputs)[:READY_POINTS], atol=1e-4)
    np.testing.assert_array_equal(points.labels, np.asarray(toy.labels)[:READY_POINTS])


COORDINATE = st.floats(-EXTENT, EXTENT, width=32)


@given(st.lists(st.tuples(COORDINATE, COORDINATE, st.integers(0, 2)), max_size=20))
def test_points_survive_a_message(rows: list[tuple[float, float, int]]) -> None:
    points = parse_points(struct.pack(f"<{3 * len(rows)}f", *(value for row in rows for value in row)), 3)
    assert [(float(x), float(y), int(k)) for (x, y), k in zip(points.inputs, points.labels, strict=True)] == rows
    assert parse_points(points.packed()).packed() == points.packed()


@given(st.binary(max_size=60).filter(lambda body: any(body)))
def test_any_other_bytes_are_refused(body: bytes) -> None:
    values = np.frombuffer(body[: len(body) // 12 * 12], "<f4").reshape(-1, 3)
    if len(body) % 12 == 0 and (np.abs(values[:, :2]) <= EXTENT).all() and np.isin(values[:, 2], (0, 1, 2)).all():
        return
    with pytest.raises(ConfigError, match=" must "):
        parse_points(body, 3)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2.1, 0, 0], r"from -2 to 2 on both axes, got \(2.1, 0\)"),
        ([0, float("nan"), 0], r"got \(0, nan\)"),
        ([0, 0, 4], "class must be one of 0 to 3, got 4"),
        ([0, 0, 0.5], "got 0.5"),
        ([0, 0], "three float32 each"),
        ([0, 0, 0] * (MOST_POINTS + 1), "at most 2000, got 2001"),
    ],
)
def test_bad_points_are_told_in_words(values: list[float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_points(struct.pack(f"<{len(values)}f", *values))


# -- settings ----------------------------------------------------------------------------------------------------------


def test_the_page_offers_what_torso_has() -> None:
    page = PAGE.read_text(encoding="utf-8")

    def options(select: str) -> list[str]:
        inside = page.partition(f'id="{select}"')[2].partition("</select>")[0]
        return re.findall(r'<option value="([^"]+)"', inside)

    assert tuple(options("plane-optimizer")) == PLANE_OPTIMIZERS == OPTIMIZERS
    assert tuple(options("plane-activation")) == ACTIVATIONS
    assert tuple(options("plane-regularisation")) == REGULARISATIONS
    assert tuple(options("plane-speed")) == tuple(SPEEDS)
    assert tuple(re.findall(r'data-set="([^"]+)"', page)) == READY_SETS


@pytest.mark.parametrize("optimizer", PLANE_OPTIMIZERS)
@pytest.mark.parametrize("regularisation", REGULARISATIONS)
def test_every_choice_learns_or_is_refused(optimizer: str, regularisation: str) -> None:
    settings = {"optimizer": optimizer, "regularisation": regularisation, "strength": 0.001, "hidden": (4,)}
    if regularisation == "weight_decay" and optimizer != "adamw":
        with pytest.raises(ConfigError, match="weight decay must go with adamw"):
            PlaneSettings.parse(settings)
        return
    trainer = trainer_of("clouds", **settings)
    before = trainer.snapshot().loss
    assert trainer.advance(60) == 60
    after = trainer.snapshot().loss
    assert after is not None
    assert before is not None
    assert after < before


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hidden": [33]}, "at most 32"),
        ({"hidden": [1] * 5}, "at most 4 layers, got 5"),
        ({"hidden": [0]}, "at least 1"),
        ({"hidden": 3}, "tuple"),
        ({"activation": "sine"}, "activation must be one of"),
        ({"optimizer": "newton"}, "optimizer must be one of"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"learning_rate": "0.1"}, "learning_rate must be a finite number"),
        ({"regularisation": "l3"}, "regularisation must be one of"),
        ({"regularisation": "l2", "strength": -1}, "strength must be at least 0"),
        ({"regularisation": "dropout", "strength": 1}, r"lie in \[0, 1\)"),
        ({"regularisation": "dropout", "strength": 0.5, "hidden": []}, "a hidden layer"),
        ({"num_classes": 5}, "at most 4"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_bad_settings_are_told_in_words(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PlaneSettings.parse(settings)


# -- the trainer -------------------------------------------------------------------------------------------------------


def layers_of(weights: NDArray[np.float32], widths: list[int]) -> list[NDArray[np.float64]]:
    """Split a snapshot's weights into [units, inputs + 1] a layer."""
    found, start = [], 0
    for inputs, units in pairwise(widths):
        size = units * (inputs + 1)
        found.append(weights[start : start + size].reshape(units, inputs + 1).astype(np.float64))
        start += size
    assert start == len(weights)
    return found


def test_a_snapshot_is_what_its_weights_compute() -> None:
    """The surface and the maps again, by numpy, from the weights of the snapshot."""
    trainer = trainer_of("three-spirals", hidden=(5, 3), activation="tanh")
    trainer.advance(200)
    snapshot = trainer.snapshot(looked=(1, 2))
    first, second, output = layers_of(snapshot.weights, [2, 5, 3, 3])
    for side in (MAP_SIDE, SURFACE_SIDE):
        centres = (np.arange(side) + 0.5) * 2 * EXTENT / side - EXTENT
        x, y = np.meshgrid(centres, centres[::-1])  # the first row is the top of the plane
        values = np.stack([x, y], axis=-1)
        h1 = np.tanh(values @ first[:, :2].T + first[:, 2])
        h2 = np.tanh(h1 @ second[:, :5].T + second[:, 5])
        if side == MAP_SIDE:
            expected = np.concatenate([h1, h2], axis=-1).transpose(2, 0, 1)
            found = (snapshot.maps / 127.5 - 1) * snapshot.scales[:, None, None]
            np.testing.assert_allclose(found, expected, atol=0.005)
    logits = h2 @ output[:, :3].T + output[:, 3]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = (odds / odds.sum(axis=-1, keepdims=True)).transpose(2, 0, 1)
    np.testing.assert_allclose(snapshot.surface / 255, probabilities, atol=0.0025)
    assert snapshot.looked is not None
    np.testing.assert_allclose((snapshot.looked / 127.5 - 1) * snapshot.looked_scale, h2[:, :, 2], atol=0.005)
    assert len(snapshot.packed()) == 3 * 3600 + 8 * 400 + 3600 + 4 * 8 + 4 * len(snapshot.weights)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_surface_is_the_network_s_own_probability(num_classes: int) -> None:
    trainer = trainer_of("circles" if num_classes == 2 else "three-spirals", regularisation="dropout", strength=0.3)
    trainer.advance(50)
    surface = trainer.snapshot().surface
    with torch.no_grad():
        network = trainer.network.eval()
        readout = network.head.readout(network(plane_grid(SURFACE_SIDE))[0])
    expected = readout.softmax(dim=1).T.reshape(num_classes, SURFACE_SIDE, SURFACE_SIDE).numpy()
    np.testing.assert_allclose(surface / 255, expected, atol=0.0021)


@pytest.mark.parametrize(("name", "num_steps"), [("xor", 600), ("circles", 1000), ("moons", 1500), ("spirals", 6000)])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_ready_sets_are_learnt(name: str, num_steps: int, seed: int) -> None:
    trainer = trainer_of(name, seed=seed)
    trainer.advance(num_steps)
    accuracy = trainer.snapshot().accuracy
    assert accuracy is not None
    assert accuracy > 0.95


def test_without_hidden_layers_it_is_logistic_or_softmax_regression() -> None:
    trainer = trainer_of("clouds", hidden=())
    assert isinstance(trainer.network.head, SigmoidHead)
    trainer.advance(300)
    snapshot = trainer.snapshot((0, 0))
    assert snapshot.accuracy == 1.0
    assert (snapshot.maps.shape, snapshot.looked) == ((0, MAP_SIDE, MAP_SIDE), None)
    (one_neuron,) = layers_of(snapshot.weights, [2, 1])
    assert one_neuron.shape == (1, 3)
    many = trainer_of("four-clouds", hidden=(), learning_rate=0.03)
    assert isinstance(many.network.head, LogitsHead)
    many.advance(300)
    assert (many.snapshot().accuracy or 0) > 0.95
    never = trainer_of("xor", hidden=(), learning_rate=0.03)
    never.advance(600)
    assert (never.snapshot().accuracy or 1) < 0.8


def test_a_seed_is_a_training_however_its_steps_are_sliced() -> None:
    whole, sliced, other = (trainer_of("spirals", seed=seed) for seed in (7, 7, 8))
    for trainer in (whole, other):
        trainer.advance(100)
    for size in (1, 30, 2, 67):
        sliced.snapshot((0, 1))
        sliced.advance(size)
    assert whole.step == sliced.step == 100
    assert whole.snapshot().packed() == sliced.snapshot().packed()
    assert whole.snapshot().packed() != other.snapshot().packed()


def test_points_count_at_once_and_the_weights_stay() -> None:
    trainer = trainer_of("clouds", hidden=(8,))
    trainer.advance(200)
    before = trainer.snapshot()
    points = ready_set("clouds")
    swapped = PlanePoints(points.inputs, 1 - points.labels)
    trainer.take_points(swapped)
    after = trainer.snapshot()
    np.testing.assert_array_equal(before.weights, after.weights)
    assert (before.accuracy, after.accuracy, after.step) == (1.0, 0.0, 200)
    trainer.advance(300)
    assert (trainer.snapshot().accuracy or 0) > 0.95
    with pytest.raises(ConfigError, match="points must be of 2 classes, got 4"):
        trainer.take_points(ready_set("four-clouds"))


def test_without_points_nothing_is_learnt() -> None:
    trainer = PlaneTrainer(PlaneSettings(), NO_POINTS)
    assert (trainer.can_step, trainer.advance(10), trainer.step) == (False, 0, 0)
    snapshot = trainer.snapshot()
    assert (snapshot.loss, snapshot.accuracy) == (None, None)
    trainer.take_points(PlanePoints(np.zeros((1, 2), dtype=np.float32), np.ones(1, dtype=np.int64)))
    assert trainer.advance(10) == 10


TOO_FAST = {"optimizer": "sgd", "learning_rate": 10, "regularisation": "l2", "strength": 0.3}


def test_a_loss_that_diverges_ends_the_training() -> None:
    trainer = trainer_of("spirals", **TOO_FAST)
    assert 10 < trainer.advance(1000) < 1000
    snapshot = trainer.snapshot((0, 0))
    assert (trainer.has_diverged, snapshot.loss, snapshot.accuracy) == (True, None, None)
    assert np.isfinite(snapshot.weights).all()
    assert trainer.advance(1000) == 0


# -- a tab's messages --------------------------------------------------------------------------------------------------


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
