"""Draw, in a real browser."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playground_pages import CHROMIUM, ink, page_of, until
from playground_process import Playground
from stroked_digits import draw_digit

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-web")
pytestmark = [pytest.mark.web, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

SEVEN = [(0.25, 0.22), (0.75, 0.22), (0.45, 0.82)]
ONE = [(0.5, 0.15), (0.5, 0.85)]
ZERO = [(0.5 + 0.22 * math.cos(a), 0.5 + 0.34 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 24)]


def stroke(page: Any, points: list[tuple[float, float]]) -> None:
    """Draw through points, as shares of the sheet."""
    box = page.locator("#canvas").bounding_box()
    for index, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=1 if index == 0 else 6)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def guess(page: Any, label: str) -> None:
    page.wait_for_selector(f"#guess b:text-is('{label}')")


@pytest.mark.parametrize("width", [1280, 360])
def test_a_digit_is_drawn_and_read(browser: Any, playground: Playground, width: int) -> None:
    with page_of(browser, playground, width) as page:
        assert page.inner_text("#guess") == "nothing drawn yet"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sheet = page.locator("#canvas").bounding_box()
        for points in (ONE, [(0.1, 0.1), (0.9, 0.2)], [(0.9, 0.9), (0.1, 0.8)], ZERO):  # a guess in many words, too
            stroke(page, points)
            page.wait_for_selector("#guess b")
            assert page.locator("#canvas").bounding_box() == sheet
        page.click("#clear")
        stroke(page, SEVEN)
        guess(page, "7")
        page.wait_for_selector("#layers details")
        bars = page.locator("#bars li")
        assert bars.count() == 10
        assert [bars.nth(index).locator("span").first.inner_text() for index in range(10)] == list("0123456789")
        assert ink(page, "#input") > 10
        assert page.locator("#layers details").count() >= 5
        until(page, "document.getElementById('heard').textContent.startsWith('7')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#clear")
        page.wait_for_selector("#guess:text('nothing drawn yet')")
        assert ink(page, "#input") < 1


def test_brush_eraser_and_undo(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground) as page:
        stroke(page, ZERO)
        guess(page, "0")
        page.click("#undo")
        page.wait_for_selector("#guess:text('nothing drawn yet')")
        page.fill("#thickness", "40")
        stroke(page, ONE)
        guess(page, "1")
        page.click("#eraser")
        assert page.get_attribute("#eraser", "aria-pressed") == "true"
        for _ in range(2):
            stroke(page, [(0.5, 0.02), (0.5, 0.98)])
        page.wait_for_selector("#guess:text('nothing drawn yet')")  # as nothing is left of it
        page.click("#undo")
        page.click("#undo")
        guess(page, "1")


def test_layers_are_shown_and_hidden(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground) as page:
        stroke(page, SEVEN)
        first = page.locator("#layers details").first
        first.wait_for()
        canvas = first.locator("canvas")
        until(page, "document.querySelector('#layers canvas').width > 150")
        assert canvas.is_visible()
        first.locator("summary").click()
        assert not canvas.is_visible()
        page.click("#clear")
        stroke(page, ZERO)
        guess(page, "0")
        first.locator("summary").click()
        canvas.wait_for()
        until(page, "document.querySelector('#layers canvas').width > 150")
        page.wait_for_timeout(500)
        assert ink(page, "#layers canvas") > 1


def test_a_unit_is_looked_at(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground) as page:
        stroke(page, SEVEN)
        layer = page.locator("#layers details[data-name='conv2']")
        layer.wait_for()
        page.wait_for_timeout(300)
        box = layer.locator("canvas").bounding_box()
        layer.locator("canvas").click(position={"x": box["width"] * 1.5 / 12, "y": 5})  # the second of twelve
        page.wait_for_selector("#unit-title:text-is('Unit 1 of conv2, of 32')")
        page.wait_for_selector("#unit-views figure.stimulus")
        assert page.locator("#unit-views figure").count() in (2, 12)  # weights, stimulus, ten images where MNIST is
        assert ink(page, "#unit-views .stimulus canvas") > 1
        page.click("#unit-before")
        page.click("#unit-before")
        page.wait_for_selector("#unit-title:text-is('Unit 31 of conv2, of 32')")
        page.wait_for_selector("#unit-views figure.stimulus")
        page.click("#unit-close")
        assert not page.locator("#unit").is_visible()
        page.locator("#layers details[data-name='dense1'] button").click()
        page.wait_for_selector("#unit-title:text-is('Unit 0 of dense1, of 64')")
        page.wait_for_selector("#unit-views figure.wide")


def test_an_image_file_is_read(browser: Any, playground: Playground, tmp_path: Path) -> None:
    (tmp_path / "five.png").write_bytes(draw_digit(5, np.random.default_rng(1)))
    (tmp_path / "text.png").write_bytes(b"not a picture")
    with page_of(browser, playground) as page:
        page.set_input_files("#file", tmp_path / "five.png")
        guess(page, "5")
        page.set_input_files("#file", tmp_path / "text.png")
        page.wait_for_selector("#guess.error:text('text.png is no image')")
        page.click("#clear")
        stroke(page, ONE)
        guess(page, "1")


def test_three_tabs_have_drawings_of_their_own(browser: Any, playground: Playground) -> None:
    drawings = {"7": SEVEN, "1": ONE, "0": ZERO}
    with (
        page_of(browser, playground) as first,
        page_of(browser, playground) as second,
        page_of(browser, playground) as third,
    ):
        pages = dict(zip(drawings, (first, second, third), strict=True))
        for label, page in pages.items():
            stroke(page, drawings[label])
        for label, page in pages.items():
            guess(page, label)


def test_a_finger_draws_and_does_not_scroll(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, 360, 640, has_touch=True, is_mobile=True) as page:
        session = page.context.new_cdp_session(page)
        box = page.locator("#canvas").bounding_box()

        def touch(kind: str, *points: tuple[float, float]) -> None:
            at = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        touch("touchStart", (0.5, 0.85))
        for y in np.linspace(0.85, 0.15, 12):
            touch("touchMove", (0.5, float(y)))
        touch("touchEnd")
        guess(page, "1")
        assert page.evaluate("window.scrollY") == 0


def test_it_says_that_the_playground_has_ended(browser: Any, start: Callable[..., Playground]) -> None:
    other = start()
    context = browser.new_context()
    page = context.new_page()
    page.goto(other.url)
    page.wait_for_selector("#state:text('ready')")
    other.end()
    page.wait_for_selector("#state.failed:text('does not answer')")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_have_their_ground(browser: Any, playground: Playground, scheme: str) -> None:
    with page_of(browser, playground, color_scheme=scheme) as page:
        stroke(page, SEVEN)
        guess(page, "7")
        pixels = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))
        assert (pixels[5, 5] > 200) == (scheme == "light")


def test_another_site_cannot_reach_it(browser: Any, playground: Playground) -> None:
    """A page of another origin, in the same browser, with the session's cookie in it."""
    context = browser.new_context()
    own = context.new_page()
    own.goto(playground.url)
    stranger = context.new_page()
    stranger.route("http://stranger.test/", lambda route: route.fulfill(body="<p>hello", content_type="text/html"))
    stranger.goto("http://stranger.test/")
    origin = f"{playground.host}:{playground.port}"
    told = stranger.evaluate(
        """async (origin) => {
            const socket = new WebSocket(`ws://${origin}/socket`);
            const opened = await new Promise((resolve) => {
                socket.onopen = () => resolve(true);
                socket.onerror = () => resolve(false);
            });
            let text = "";
            try { text = await (await fetch(`http://${origin}/`, { credentials: "include" })).text(); } catch {}
            return [opened, text];
        }""",
        origin,
    )
    assert told == [False, ""]
    context.close()
