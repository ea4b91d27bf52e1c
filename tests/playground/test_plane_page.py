"""Two dimensions, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from playground_pages import CHROMIUM, ink, page_of, until
from playground_process import Playground

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-web")
pytestmark = [pytest.mark.web, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

ACCURACY = "parseFloat(document.getElementById('plane-accuracy').textContent)"


def steps(page: Any) -> int:
    return int(page.inner_text("#plane-steps").replace(",", ""))


def ready(page: Any) -> None:
    """Wait for the first snapshot of a network that has made no step."""
    until(page, f"{ACCURACY} >= 0 && document.getElementById('plane-steps').textContent === '0'")


def place(page: Any, x: float, y: float) -> None:
    """Click into the plane, at shares of its width and height."""
    box = page.locator("#plane-sheet").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


@pytest.mark.parametrize("width", [1280, 360])
def test_the_accuracy_rises_until_it_is_paused(browser: Any, playground: Playground, width: int) -> None:
    with page_of(browser, playground, width, part="plane") as page:
        ready(page)
        assert page.get_attribute("[data-set='circles']", "aria-pressed") == "true"
        page.click("[data-set='xor']")
        until(page, "document.querySelector('[data-set=xor]').ariaPressed === 'true'")
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [page.locator(name).bounding_box() for name in ("#plane-sheet", "#plane-chart", "#plane-layers")]
        before = page.evaluate(ACCURACY)
        page.click("#plane-train")
        assert page.inner_text("#plane-train") == "Pause"
        until(page, f"{ACCURACY} >= 99")
        assert before < 80
        assert [
            page.locator(name).bounding_box() for name in ("#plane-sheet", "#plane-chart", "#plane-layers")
        ] == boxes
        page.click("#plane-train")
        until(page, "document.getElementById('plane-heard').textContent.startsWith('step')")
        page.wait_for_timeout(300)
        paused = steps(page)
        page.wait_for_timeout(500)
        assert steps(page) == paused > 0
        page.click("#plane-step")
        until(page, f"document.getElementById('plane-steps').textContent.replace(',', '') === '{paused + 1}'")
        page.click("#plane-again")
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_points_are_placed_erased_and_cleared(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.click("#plane-clear")
        until(page, "document.getElementById('plane-accuracy').textContent === '–'")
        assert page.inner_text("#plane-told").startswith("No points")
        place(page, 0.3, 0.3)
        until(page, f"{ACCURACY} >= 0")
        assert page.inner_text("#plane-told") == ""
        page.click("#plane-train")
        until(page, f"{ACCURACY} === 100 && parseFloat(document.getElementById('plane-loss').textContent) < 0.02")
        page.click("#plane-train")
        page.click(
            "#plane-classes button:nth-child(2)"
        )  # a point that is wrong at once, and learnt by the same weights
        place(page, 0.45, 0.45)
        until(page, f"{ACCURACY} === 50")
        taken = steps(page)
        page.click("#plane-train")
        until(page, f"{ACCURACY} === 100")
        assert steps(page) > taken > 0
        page.click("#plane-classes button:nth-child(3)")  # a third class starts again with a larger network
        place(page, 0.3, 0.7)
        until(page, "document.querySelectorAll('.plane-column:last-child .plane-tile').length === 3")
        until(page, f"{ACCURACY} === 100")
        page.click("#plane-train")
        page.click("#plane-eraser")
        for x, y in ((0.3, 0.3), (0.45, 0.45), (0.3, 0.7)):
            place(page, x, y)
        until(page, "document.getElementById('plane-accuracy').textContent === '–'")


def test_a_stroke_places_several_points(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.click("#plane-clear")
        box = page.locator("#plane-sheet").bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 300, box["y"] + 200, steps=5)
        page.mouse.move(box["x"] + 600, box["y"] + 200, steps=5)  # beyond the plane there are none
        page.mouse.up()
        page.focus("#plane-sheet")
        page.keyboard.press(" ")
        count = int(page.inner_text("#plane-cross").split()[0])
        assert 15 < count < 30


def test_a_touch_places_a_point_and_scrolls_nothing(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, 360, 740, part="plane", has_touch=True) as page:
        ready(page)
        page.tap("#plane-clear")
        until(page, "document.getElementById('plane-accuracy').textContent === '–'")
        box = page.locator("#plane-sheet").bounding_box()
        session = page.context.new_cdp_session(page)
        x, y = box["x"] + 150, box["y"] + 250
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for way in range(0, 200, 20):
            session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y - way}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        until(page, f"{ACCURACY} >= 0")
        assert page.evaluate("scrollY") == 0
        assert page.locator("#plane-sheet").bounding_box()["x"] == box["x"]
        x, y = 180, 700  # whereas beside the plane the page scrolls
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        for way in range(0, 200, 20):
            session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [{"x": x, "y": y - way}]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        until(page, "scrollY > 0")


def test_it_works_by_keyboard_alone(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.focus("#plane-clear")
        page.keyboard.press("Enter")
        page.focus("#plane-sheet")
        page.keyboard.press("ArrowLeft")
        for _ in range(5):
            page.keyboard.press("ArrowLeft")
        until(page, "document.getElementById('plane-cross').textContent === '-0.5, 0'")
        page.keyboard.press("Space")
        until(page, "document.getElementById('plane-cross').textContent === '1 point'")
        page.focus("[data-plane='more-0']")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('[data-plane=width-0]').value === '9'")
        assert page.evaluate("document.activeElement.dataset.plane") == "more-0"
        page.focus("[data-plane='unit-1-0']")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        until(page, "document.getElementById('plane-unit-title').textContent === 'Unit 2 of layer 2'")


def test_layers_are_added_and_removed(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.click("#plane-more")
        page.click("#plane-more")
        assert page.is_disabled("#plane-more")
        for layer in range(4):
            page.fill(f"[data-plane='width-{layer}']", "40")
            page.press(f"[data-plane='width-{layer}']", "Enter")
        assert page.input_value("[data-plane='width-3']") == "32"
        assert page.locator("button.plane-tile").count() == 4 * 32 + 1
        ready(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.click("[data-plane='unit-3-31']")
        page.wait_for_selector("#plane-unit-title:text-is('Unit 32 of layer 4')")
        page.wait_for_selector("#plane-formula:text('24 smaller ones')")
        assert ink(page, "#plane-unit-map") > 1
        for _ in range(4):
            page.click("#plane-fewer")
        assert page.is_disabled("#plane-fewer")
        assert "logistic regression" in page.inner_text("#plane-network-note")
        page.wait_for_selector("#plane-formula:text('P(B) = sigmoid')")
        page.click("[data-set='four-clouds']")
        page.wait_for_selector("#plane-formula:text('P(A) ∝ exp')")
        assert "softmax regression" in page.inner_text("#plane-network-note")


def test_regularisation_and_optimizer_go_together(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.select_option("#plane-regularisation", "weight_decay")
        assert page.input_value("#plane-optimizer") == "adamw"
        assert page.input_value("#plane-strength") == "0.1"
        page.select_option("#plane-optimizer", "sgd")
        assert page.input_value("#plane-regularisation") == "none"
        assert page.input_value("#plane-rate") == "0.1"
        page.select_option("#plane-regularisation", "dropout")
        page.click("#plane-fewer")
        page.click("#plane-fewer")
        assert page.input_value("#plane-regularisation") == "none"
        ready(page)
        assert page.inner_text("#plane-told") == ""


def test_a_divergence_is_told_and_starting_again_works(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.select_option("#plane-speed", "fast")
        page.select_option("#plane-optimizer", "sgd")
        page.select_option("#plane-rate", "10")
        page.select_option("#plane-regularisation", "l2")
        page.select_option("#plane-strength", "0.3")
        page.click("#plane-train")
        page.wait_for_selector("#plane-told.failed:text('not a number any more')")
        assert page.inner_text("#plane-train") == "Train"
        page.select_option("#plane-regularisation", "none")
        page.select_option("#plane-rate", "0.1")
        page.click("#plane-train")
        until(page, f"{ACCURACY} >= 95")
        assert page.inner_text("#plane-told") == ""


def test_away_from_it_the_training_waits(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as page:
        ready(page)
        page.click("#plane-train")
        until(page, "Number(document.getElementById('plane-steps').textContent) > 10")
        page.click("#parts a[href='#draw']")
        page.wait_for_timeout(1500)
        away = steps(page)
        page.wait_for_timeout(500)
        assert steps(page) == away
        page.click("#parts a[href='#plane']")
        until(page, f"Number(document.getElementById('plane-steps').textContent.replace(',', '')) > {away}")


def test_two_tabs_train_for_themselves(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="plane") as first, page_of(browser, playground, part="plane") as second:
        ready(first)
        ready(second)
        second.click("[data-set='three-spirals']")
        first.click("#plane-train")
        until(first, f"{ACCURACY} >= 99")
        assert steps(second) == 0
        assert second.locator(".plane-column:last-child .plane-tile").count() == 3
