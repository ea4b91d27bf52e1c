"""The page in a real browser: Debian's Chromium, without a window. ``make test-web`` installs what this needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playground_process import Playground

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WAIT_MS = 20_000


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, through Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        no_sandbox = ("--no-sandbox",) if os.getuid() == 0 else ()
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *no_sandbox])
        yield running
        running.close()


@contextmanager
def page_of(
    browser: Any, playground: Playground, width: int = 1280, height: int = 900, part: str = "draw", **settings: Any
) -> Iterator[Any]:
    """Open the page. What it asks of another address, and what its console complains of, is an error."""
    context = browser.new_context(viewport={"width": width, "height": height}, **settings)
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    faults: list[str] = []
    origin = f"{playground.host}:{playground.port}"
    for asked in ("request", "websocket"):
        page.on(asked, lambda request: faults.append(request.url) if f"//{origin}/" not in request.url else None)
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(playground.url)
    assert page.url == f"http://{origin}/"  # the token is not in the address any more
    page.wait_for_selector("#state:text('ready')")
    if part != "draw":
        page.click(f"#parts a[href='#{part}']")
    try:
        yield page
        of_the_test = ("blob:", "Canvas2D: Multiple readback")  # a file that was chosen; how `ink` reads
        left = [fault for fault in faults if not fault.startswith(of_the_test)]
        assert not left, left
    finally:
        context.close()


def until(page: Any, expression: str) -> None:
    """Wait until an expression holds; the page's policy forbids Playwright's own way, which evaluates text."""
    for _ in range(WAIT_MS // 50):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def ink(page: Any, selector: str) -> float:
    """Mean of a canvas' colours, 0 to 255, without what is transparent."""
    script = """(selector) => {
        const canvas = document.querySelector(selector);
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let sum = 0;
        for (let i = 0; i < data.length; i += 4) sum += (data[i] * data[i + 3]) / 255;
        return (4 * sum) / data.length;
    }"""
    return float(page.evaluate(script, selector))
