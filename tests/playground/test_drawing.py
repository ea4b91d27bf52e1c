"""Drawings over a tab's socket: guesses, pictures of the network, errors, several tabs."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playground_process import Playground
from playground_tabs import Tab, packed, with_tabs
from stroked_digits import draw_digit, png

from torso.envs import load_dataset
from torso.errors import ConfigError, InputError
from torso.insight.units.layers import activations
from torso.nets import InputSpec, LogitsHeadSpec, MLPSpec, NetworkSpec, Predictor, build_network, load_model, save_model
from torso.nets.prediction.image_inputs import decode_image
from torso.playground.config import DIGITS
from torso.playground.draw.drawing import Drawing, parse_drawing
from torso.playground.draw.network_views import NetworkViews
from torso.playground.messages import Newest, packed_message, parse_tab_message
from torso.playground.page import _reported


def test_a_guess_has_all_labels_and_the_models_own_probabilities(playground: Playground) -> None:
    image = draw_digit(7, np.random.default_rng(0))
    predictor = Predictor.load(DIGITS)
    labels, _, probabilities = predictor.classify(predictor.prepare_images([image]), 10)

    async def test(tab: Tab) -> None:
        await tab.draw(5, image)
        guess, _ = await tab.receive("guess")
        assert (guess["serial"], guess["model"]) == (5, "digits")
        assert [row["label"] for row in guess["ranking"]] == list(map(str, labels[0]))
        found = [row["probability"] for row in guess["ranking"]]
        np.testing.assert_allclose(found, probabilities[0], atol=1e-4)

    with_tabs(playground, test)


def test_pictures_are_what_the_network_is_given_and_its_activations(playground: Playground) -> None:
    image = draw_digit(4, np.random.default_rng(1))
    card, network = load_model(DIGITS)
    assert card.network.input.image is not None
    given = decode_image(image, card.network.input.image)
    obs = torch.from_numpy(np.rint(given).astype(np.uint8).reshape(1, *card.network.input.shape))
    expected = {name: values[0].numpy() for name, values in activations(network, obs).items() if name != "output"}

    async def test(tab: Tab) -> None:
        await tab.draw(1, image, hidden=["conv1"])
        header, pixels = await tab.receive("pictures")
        assert [plate["name"] for plate in header["plates"]] == ["input", *expected]
        start = 0
        for plate in header["plates"]:
            size = int(np.prod(plate["shape"]))
            found = np.frombuffer(pixels[start : start + size], dtype=np.uint8).reshape(plate["shape"])
            start += size
            if plate["name"] == "input":
                np.testing.assert_array_equal(found, np.rint(given).transpose(2, 0, 1))
            elif plate["name"] == "conv1":
                assert plate["shape"][0] == 0
                assert plate["units"] == len(expected["conv1"])
            else:
                values = expected[plate["name"]]
                read = plate["low"] + found.reshape(values.shape) / 255 * (plate["high"] - plate["low"])
                np.testing.assert_allclose(read, values, atol=(plate["high"] - plate["low"]) / 500)
        assert start == len(pixels)

    with_tabs(playground, test)


def test_an_empty_sheet_and_bad_files_are_told_in_words(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        await tab.draw(1, png(np.full((336, 336), 255, dtype=np.uint8)))
        assert (await tab.receive("blank"))[0]["serial"] == 1
        await tab.draw(2, b"GIF89a")
        assert "PNG or JPEG" in (await tab.receive("error"))[0]["text"]
        await tab.draw(3, draw_digit(1, np.random.default_rng(0)), model="none")
        assert "none" in (await tab.receive("error"))[0]["text"]
        header = {"part": "draw", "type": "drawing"}
        await tab.socket.send_bytes(packed({**header, "serial": "x", "model": "m"}, b""))
        assert "a drawing must have" in (await tab.receive("error"))[0]["text"]
        await tab.say("draw", "unit", model="digits", layer="conv1")
        assert "a question must have" in (await tab.receive("error"))[0]["text"]
        for message in (b"", b"\1", struct.pack("<I", 2) + b"[]", packed({"part": "draw"}, b"")):
            await tab.socket.send_bytes(message)
            assert "a message must be" in (await tab.receive("error", "page"))[0]["text"]
        await tab.socket.send_str(json.dumps({"part": "none", "type": "x"}))
        assert "part must be one of draw" in (await tab.receive("error", "page"))[0]["text"]
        await tab.draw(4, draw_digit(1, np.random.default_rng(0)))  # and it goes on
        assert (await tab.receive("guess"))[0]["ranking"][0]["label"] == "1"

    with_tabs(playground, test)


def test_each_tab_has_answers_of_its_own(playground: Playground) -> None:
    async def test(*opened: Tab) -> None:
        for digit, tab in enumerate(opened):
            await tab.draw(10 + digit, draw_digit(digit, np.random.default_rng(3)))
        for digit, tab in enumerate(opened):
            guess, _ = await tab.receive("guess")
            assert (guess["serial"], guess["ranking"][0]["label"]) == (10 + digit, str(digit))
        await opened[0].socket.close()
        for digit, tab in enumerate(opened[1:], start=1):
            await tab.draw(20, draw_digit(digit, np.random.default_rng(4)))
            assert (await tab.receive("guess"))[0]["serial"] == 20

    with_tabs(playground, test, count=3)


def test_the_newest_drawing_wins(playground: Playground) -> None:
    rng = np.random.default_rng(5)
    images = [draw_digit(digit % 10, rng) for digit in range(40)]

    async def test(tab: Tab) -> None:
        for serial, image in enumerate(images):
            await tab.draw(serial, image)
        serials = []
        while not serials or serials[-1] != len(images) - 1:
            serials.append((await tab.receive("guess"))[0]["serial"])
        assert serials == sorted(serials)
        assert len(serials) < len(images)

    with_tabs(playground, test)


def test_an_error_that_nobody_expected_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    async def send(type: str, body: bytes | None = None, **fields: Any) -> None:
        told.append(fields["text"])

    async def breaks() -> None:
        raise ZeroDivisionError

    asyncio.run(_reported(breaks(), send))
    assert "which is a bug" in told[0]
    assert "ZeroDivisionError" in caplog.text


def test_a_slot_keeps_the_newest() -> None:
    async def test() -> None:
        newest = Newest()
        drawings = [Drawing(serial, "m", b"", ()) for serial in range(3)]
        for drawing in drawings:
            newest.put(drawing)
        assert await newest.take() is drawings[2]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(newest.take(), 0.05)

    asyncio.run(test())


def test_a_message_is_parsed() -> None:
    fields = {"part": "draw", "type": "drawing", "serial": 3, "model": "digits", "hidden": ["conv1"]}
    data = packed_message(fields, b"png")
    assert data == packed(fields, b"png")
    drawing = parse_drawing(parse_tab_message(data))
    assert (drawing.serial, drawing.model, drawing.image, drawing.hidden) == (3, "digits", b"png", ("conv1",))
    text = parse_tab_message(packed_message(fields))
    assert (text.part, text.type, text.body) == ("draw", "drawing", b"")
    with pytest.raises(ConfigError, match="got 3 others"):
        parse_tab_message(b"abc")


def test_a_tab_is_told_of_the_models(playground: Playground) -> None:
    async def test(tab: Tab) -> None:
        assert [model["name"] for model in tab.models] == ["digits"]
        assert tab.models[0]["labels"] == [str(digit) for digit in range(10)]

    with_tabs(playground, test)


def test_a_network_of_no_images_has_no_pictures(tmp_path: Path) -> None:
    spec = NetworkSpec(input=InputSpec(shape=(3,)), torso=MLPSpec(hidden=(4,)), head=LogitsHeadSpec(num_classes=2))
    save_model(tmp_path / "plain", build_network(spec), kind="classifier", labels=["a", "b"])
    with pytest.raises(InputError, match="a network of images"):
        NetworkViews({"plain": tmp_path / "plain"}).look("plain", b"")


def read_digits(images: list[bytes]) -> list[str]:
    predictor = Predictor.load(DIGITS)
    return [str(row[0]) for row in predictor.classify(predictor.prepare_images(images)).labels]


def test_digits_made_by_strokes_are_read() -> None:
    rng = np.random.default_rng(2026)
    digits = [str(index % 10) for index in range(100)]
    found = read_digits([draw_digit(int(digit), rng) for digit in digits])
    assert sum(map(str.__eq__, found, digits)) >= 98


def test_painted_digits_of_mnist_are_read() -> None:
    """Test images of MNIST as somebody would paint them: dark on paper, of any size, anywhere on the sheet."""
    rng = np.random.default_rng(7)
    data = load_dataset("mnist").test
    images = []
    for pixels in np.asarray(data.inputs[:100]):
        side = int(rng.integers(84, 280))
        large = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
        sheet = np.full((336, 336), 255, dtype=np.uint8)
        top, left = rng.integers(0, 336 - side, 2)
        sheet[top : top + side, left : left + side] = 255 - large
        images.append(png(sheet))
    assert sum(map(str.__eq__, read_digits(images), map(str, data.labels[:100]))) >= 98
