"""Train, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playground_pages import CHROMIUM, page_of, until
from playground_process import Playground

from torso.nets import load_model

pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-web")
pytestmark = [pytest.mark.web, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

LONG_MS = 120_000


def begin(page: Any, steps: int, name: str = "", env: str = "CartPole-v1", algorithm: str = "pqn") -> None:
    page.wait_for_selector("#train-begin:enabled")
    page.select_option("#train-env", env)
    page.select_option("#train-algorithm", algorithm)
    page.fill("#train-steps", str(steps))
    page.fill("#train-name", name)
    page.click("#train-begin")


def phase(page: Any, words: str) -> None:
    page.wait_for_selector(f"#train-phase:text('{words}')", timeout=LONG_MS)


def reach(page: Any, selector: str) -> float:
    """End of a chart's blue line, as a share of its width."""
    script = """(selector) => {
        const canvas = document.querySelector(selector);
        const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let most = 0;
        for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3] > 200 && data[i] < 90 && data[i + 2] > 180) most = Math.max(most, (i / 4) % width);
        }
        return most / width;
    }"""
    return float(page.evaluate(script, selector))


@pytest.mark.parametrize("width", [1280, 360])
def test_cartpole_is_trained_and_saved(
    browser: Any, start: Callable[..., Playground], tmp_path: Path, width: int
) -> None:
    playground = start("--runs", str(tmp_path / "runs"))
    with page_of(browser, playground, width, part="train", has_touch=width == 360) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        phase(page, "Choose an env")
        assert page.is_disabled("#train-save-it")
        begin(page, 200_000)
        phase(page, "Learning")
        place = "Math.round(document.getElementById('train-returns').getBoundingClientRect().top + scrollY)"
        charts = page.evaluate(place)
        until(page, "document.getElementById('train-step').textContent.replace(',', '') > 5000")
        early = page.inner_text("#train-step")
        before = [reach(page, name) for name in ("#train-returns", "#train-loss")]
        until(page, f"document.getElementById('train-step').textContent !== '{early}'")
        page.wait_for_selector("#train-best:not(:text-is('–'))", timeout=LONG_MS)
        until(
            page, "document.getElementById('train-returns').getAttribute('aria-label').includes('evaluation at step')"
        )
        phase(page, "Done: mean return")
        assert max(before) < 0.85
        assert min(reach(page, name) for name in ("#train-returns", "#train-loss")) > 0.9
        assert page.evaluate(place) == charts
        assert page.evaluate("document.getElementById('train-progress').value") == 1
        until(page, "document.getElementById('train-heard').textContent.startsWith('Done')")
        page.fill("#train-model", "champion")
        page.click("#train-save-it")
        page.wait_for_selector("#train-saved code:text('torso play')")
        until(page, "document.getElementById('train-runs').children.length === 2")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("#train-save-it")
        page.wait_for_selector("#train-saved-error:text('choose another')")
    card, _ = load_model(tmp_path / "runs" / "champion")
    assert card.kind == "policy"
    playground.end()


def test_a_run_is_stopped_and_goes_on(browser: Any, start: Callable[..., Playground], tmp_path: Path) -> None:
    playground = start("--runs", str(tmp_path))
    with page_of(browser, playground, part="train") as page:
        begin(page, 2_000_000, "long", "torso/Forager-v0", "dqn")
        phase(page, "Learning")
        assert page.is_disabled("#train-env")
        page.click("#train-stop")
        phase(page, "Stopped at step")
        stopped_at = page.inner_text("#train-step")
        page.click("#train-resume")
        phase(page, "Learning")
        until(page, f"document.getElementById('train-step').textContent !== '{stopped_at}'")
    with page_of(browser, playground, part="train") as page:  # the other tab has gone, and its run was stopped
        page.wait_for_selector("#train-runs p:text('unfinished at')", timeout=LONG_MS)
        page.click("#train-runs button[aria-label='Show: long']")
        phase(page, "Unfinished, at step")
        assert page.is_enabled("#train-resume")
        begin(page, 5_000, "long")
        page.wait_for_selector("#train-error:text('choose another')")
        begin(page, 5_000, "../long")
        page.wait_for_selector("#train-error:text('must be up to 64 letters')")
        phase(page, "Unfinished, at step")
    playground.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["long"]
