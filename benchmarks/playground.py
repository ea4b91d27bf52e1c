"""The playground in a real browser: seconds until the page and the first guess, strokes to guesses, frames of Pong.

    python benchmarks/playground.py [--strokes 200] [--game-s 10] [--idle]

Starts ``torso playground`` and Debian's Chromium without a window, and draws ten strokes a second. A stroke is answered
when the first guess that was asked for after it is on the screen, that is, painted. Then Pong is played by a QR-DQN
network of Nature's size (untrained, which costs the same), its distributions shown, at the game's own 15 steps/s and
asked for four times that; frames that are painted count. Beside it an agent trains
(``torso train dqn --env CartPole-v1``, one thread), unless ``--idle``. Needs ``pip install 'torso[test-web]'``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from report import Report

from torso.nets import InputSpec, NetworkSpec, build_network, export_onnx, net_spec, save_model
from torso.nets.specs.heads import QuantileHeadSpec

FLAGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PERIOD_S = 0.1
SPEEDS = {"1×: 15 steps/s": "0", "4×: 60 steps/s": "2"}

# Remembers when each drawing was sent, and when the frame that shows its guess was painted.
WATCH = """() => {
    window.taken = [];
    const guess = document.getElementById("guess");
    let begun = null;
    document.getElementById("canvas").addEventListener("pointerup", () => { begun = performance.now(); });
    new MutationObserver(() => {
        if (begun === null) return;
        const since = begun;
        begun = null;
        requestAnimationFrame(() => setTimeout(() => window.taken.push(performance.now() - since)));
    }).observe(guess, { childList: true, subtree: true, characterData: true });
}"""


def start(stack: ExitStack, *words: str) -> subprocess.Popen[str]:
    """Start a command of torso that is ended with the stack."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torso", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def stroke(page: Any, box: dict[str, float], number: int) -> None:
    """Draw a short line somewhere on the sheet; clear it after every tenth."""
    if number % 10 == 0:
        page.evaluate("document.getElementById('clear').click()")
    x, y = box["x"] + box["width"] * (0.3 + 0.04 * (number % 10)), box["y"] + box["height"] * 0.25
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 12, y + box["height"] * 0.4, steps=4)
    page.mouse.up()


def save_pong_policy(directory: Path) -> None:
    """Save an untrained policy for Pong: Nature's torso, a quantile head of 200."""
    frames = InputSpec(shape=(4, 84, 84), dtype="uint8", layout="chw", scale=1 / 255)
    spec = NetworkSpec(input=frames, torso=net_spec("nature", frames), head=QuantileHeadSpec(num_actions=6))
    save_model(directory, build_network(spec), kind="policy", provenance={"env_id": "ALE/Pong-v5"})
    export_onnx(directory)


def painted_frames(page: Any, speed: str, seconds: float) -> float:
    """Frames/s of the game that are painted, at a position of the speed's slider."""
    page.fill("#play-speed", speed)
    page.wait_for_timeout(2000)
    count = "Number(document.getElementById('play-screen').dataset.serial)"
    before, began = page.evaluate(count), time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    return (page.evaluate(count) - before) / (time.monotonic() - began)


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strokes", type=int, default=200)
    parser.add_argument("--game-s", type=float, default=10.0, help="seconds of each speed of the game")
    parser.add_argument("--idle", action="store_true", help="no agent trains beside it")
    options = parser.parse_args()
    report = Report("playground")
    with ExitStack() as stack:
        runs = stack.enter_context(tempfile.TemporaryDirectory())
        if not options.idle:
            training = (
                "train",
                "dqn",
                "--env",
                "CartPole-v1",
                "--steps",
                "100000000",
                "--out",
                str(Path(runs) / "run"),
            )
            start(stack, *training)
            time.sleep(15)  # until it learns
        playwright = stack.enter_context(sync_playwright())
        no_sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*FLAGS, *no_sandbox])
        stack.callback(browser.close)
        save_pong_policy(Path(runs) / "pong")
        page = browser.new_page()
        began = time.monotonic()
        process = start(stack, "playground", str(Path(runs) / "pong"))
        line = process.stdout.readline() if process.stdout is not None else ""
        page.goto(line.split()[-1])
        page_s = time.monotonic() - began
        box = page.locator("#canvas").bounding_box()
        stroke(page, box, 1)
        page.wait_for_selector("#guess b")
        first_s = time.monotonic() - began
        time.sleep(2)  # until the layers are shown, too
        page.evaluate(WATCH)
        for number in range(options.strokes):
            due = time.monotonic() + PERIOD_S
            stroke(page, box, number)
            page.wait_for_timeout(max(0.0, 1000 * (due - time.monotonic())))
        page.wait_for_timeout(1000)
        taken = sorted(page.evaluate("window.taken"))
        page.click("#parts a[href='#play']")
        page.wait_for_selector("#play-actions canvas")
        frames = {name: painted_frames(page, speed, options.game_s) for name, speed in SPEEDS.items()}
        process.terminate()
    report.data.update(
        frames_per_s=frames, page_s=page_s, first_guess_s=first_s, milliseconds=[round(each, 1) for each in taken]
    )
    p95 = taken[int(0.95 * (len(taken) - 1))]
    rows = [[f"{page_s:.2f}", f"{first_s:.2f}", f"{statistics.median(taken):.0f}", f"{p95:.0f}", f"{taken[-1]:.0f}"]]
    beside = "nothing" if options.idle else "an agent that trains"
    report.say(f"{len(taken)} guesses of {options.strokes} strokes, {1 / PERIOD_S:.0f} a second; beside it: {beside}\n")
    names = ["seconds to the page", "to the first guess", "ms from stroke to guess, median", "p95", "largest"]
    report.table(names, rows)
    report.say("\nPong by a QR-DQN network of Nature's size, its distributions shown:\n")
    report.table(["speed asked for", "frames/s painted"], [[name, f"{value:.1f}"] for name, value in frames.items()])
    report.write()


if __name__ == "__main__":
    main()
