"""Play, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playground_pages import CHROMIUM, ink, page_of, until
from playground_process import Playground

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-web")
pytestmark = [pytest.mark.web, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

FRAMES = "Number(document.getElementById('play-screen').dataset.serial)"


def total(page: Any) -> float:
    return float(page.inner_text("#play-total").replace(",", ""))


def choose(page: Any, game: str, model: str = "") -> None:
    page.select_option("#play-game", game)
    page.select_option("#play-model", model)


@pytest.mark.parametrize("width", [1280, 360])
def test_the_agent_plays(browser: Any, playground: Playground, width: int) -> None:
    with page_of(browser, playground, width, part="play") as page:
        until(page, f"{FRAMES} > 20")
        place = page.locator("#play-screen").bounding_box()
        assert page.locator("#play-actions li").count() == 2
        assert page.locator("#play-actions li.taken").count() == 1
        assert ink(page, "#play-screen") > 100  # CartPole's ground is white
        assert ink(page, "#play-actions canvas") > 1
        assert page.inner_text("#play-actions li:first-child span:last-child").replace(".", "").isdigit()
        before = total(page)
        until(page, f"Number(document.getElementById('play-total').textContent) > {before + 10}")
        assert page.locator("#play-screen").bounding_box() == place
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        choose(page, "torso/Forager-v0", "forager")
        until(page, "document.getElementById('play-screen').width === 480")
        assert page.locator("#play-actions li").count() == 5
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_pause_step_and_speed(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="play") as page:
        until(page, f"{FRAMES} > 5")
        page.click("#play-pause")
        page.wait_for_timeout(400)
        stood = total(page)
        page.wait_for_timeout(400)
        assert total(page) == stood
        page.click("#play-step")
        until(page, f"Number(document.getElementById('play-total').textContent) === {stood + 1}")
        page.fill("#play-speed", "-3")
        page.wait_for_selector("#play-speed-is:text-is('1/8×')")
        page.click("#play-again")
        until(page, "document.getElementById('play-total').textContent === '0'")


def test_a_hand_takes_over_by_keys_and_hands_back(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, part="play") as page:
        until(page, f"{FRAMES} > 5")
        page.click("#play-hand")
        page.wait_for_selector("#play-note:text('it waits for a key')")
        page.keyboard.down("ArrowRight")
        page.wait_for_selector("#play-note:text('the episode is over')")
        page.keyboard.up("ArrowRight")
        page.wait_for_selector("#play-note:text('it waits for a key')")
        page.click("#play-hand")
        until(page, "Number(document.getElementById('play-total').textContent) > 30")


def test_the_pad_plays_with_a_finger(browser: Any, playground: Playground) -> None:
    with page_of(browser, playground, 360, 740, part="play", has_touch=True, is_mobile=True) as page:
        choose(page, "MinAtar/Breakout-v1")
        until(page, "document.querySelectorAll('#play-actions li').length === 3")
        page.click("#play-hand")
        left = page.locator("#play-pad button[data-word='LEFT']")
        left.scroll_into_view_if_needed()
        box = left.bounding_box()
        session = page.context.new_cdp_session(page)
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [at]})
        page.wait_for_selector("#play-actions li.taken:has-text('left')")
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_selector("#play-actions li.taken:has-text('nothing')")


def test_three_tabs_play_and_one_that_is_hidden_rests(browser: Any, playground: Playground) -> None:
    with (
        page_of(browser, playground, part="play") as first,
        page_of(browser, playground, part="play") as second,
        page_of(browser, playground, part="play") as third,
    ):
        choose(second, "torso/Forager-v0", "forager")
        choose(third, "ALE/Pong-v5")
        for page in (first, second, third):
            until(page, f"{FRAMES} > 10")
        first.click("#parts a[href='#draw']")
        first.wait_for_timeout(400)
        shown = first.evaluate(FRAMES)
        first.wait_for_timeout(400)
        assert first.evaluate(FRAMES) == shown
        before = third.evaluate(FRAMES)
        until(third, f"{FRAMES} > {before + 5}")
        first.click("#parts a[href='#play']")
        until(first, f"{FRAMES} > {shown}")


def test_a_game_that_cannot_be_played_is_told(browser: Any, start: Callable[..., Playground], tmp_path: Any) -> None:
    from torso.nets import InputSpec, MLPSpec, NetworkSpec, build_network, save_model
    from torso.nets.specs.heads import ScalarHeadSpec

    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=MLPSpec(hidden=(8,)), head=ScalarHeadSpec(num_actions=2))
    save_model(tmp_path / "strange", build_network(spec), kind="policy", provenance={"env_id": "Strange-v9"})
    running = start(str(tmp_path / "strange"))
    with page_of(browser, running, part="play") as page:
        page.wait_for_selector("#play-note.failed:text('Strange-v9')")
        choose(page, "CartPole-v1")
        until(page, f"{FRAMES} > 3")
        assert "failed" not in (page.get_attribute("#play-note", "class") or "")
    running.end()
