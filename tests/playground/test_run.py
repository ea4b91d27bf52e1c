"""Beginning and end of a playground: signals, kills, broken models, taken ports, a server that runs already."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from playground_process import Playground

from torso.playground.config import DIGITS
from torso.playground.page import STATIC


def first_message(playground: Playground) -> dict[str, Any]:
    """First message to a tab's Draw."""

    async def ask() -> dict[str, Any]:
        origin = f"http://{playground.host}:{playground.port}"
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            await session.get(playground.url)
            async with session.ws_connect(f"{origin}/socket", origin=origin) as tab:
                while True:
                    message = await tab.receive(timeout=60)
                    found: dict[str, Any] = json.loads(message.data)
                    if found["part"] == "draw":
                        return found

    return asyncio.run(ask())


def children(playground: Playground) -> list[psutil.Process]:
    return psutil.Process(playground.process.pid).children(recursive=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_ready", [True, False])
def test_a_signal_ends_it_and_its_server(start: Callable[..., Playground], number: int, is_ready: bool) -> None:
    playground = start()
    if is_ready:
        assert first_message(playground)["type"] == "models"
    wait_for(lambda: bool(children(playground)))
    own = children(playground)
    playground.end(number)
    wait_for(lambda: not any(process.is_running() for process in own))


def test_its_server_does_not_outlive_it(start: Callable[..., Playground]) -> None:
    playground = start()
    assert first_message(playground)["type"] == "models"
    own = children(playground)
    assert own
    playground.process.kill()
    playground.process.wait()
    wait_for(lambda: not any(process.is_running() and process.status() != "zombie" for process in own))


def test_a_server_that_dies_is_told_in_words(start: Callable[..., Playground]) -> None:
    playground = start()
    first_message(playground)
    for process in children(playground):
        process.kill()
    assert first_message(playground)["type"] == "failed"
    playground.end()


def test_a_broken_model_is_told_on_the_page(start: Callable[..., Playground], tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "broken")
    (tmp_path / "broken" / "weights.safetensors").write_bytes(b"")
    playground = start(str(tmp_path / "broken"))
    told = first_message(playground)
    assert told["type"] == "failed"
    assert "broken" in told["text"]
    playground.end()


def test_models_have_the_names_that_they_were_given(start: Callable[..., Playground]) -> None:
    playground = start(f"seven-segment={DIGITS}", str(DIGITS))
    models = first_message(playground)["models"]
    assert {model["name"]: model["inside"] for model in models} == {"seven-segment": True, "digits": True}
    playground.end()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    port_file = tmp_path / "port"
    words = ["serve", f"mine={DIGITS}", "--port", "0", "--port-file", str(port_file)]
    server = subprocess.Popen([sys.executable, "-m", "torso", *words], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: port_file.exists() and bool(port_file.read_text()))
        yield f"127.0.0.1:{port_file.read_text().strip()}"
    finally:
        server.terminate()
        server.wait(30)


def test_a_server_that_runs_already_is_asked(start: Callable[..., Playground], address: str) -> None:
    blind = start("--address", address)
    [model] = first_message(blind)["models"]
    assert (model["name"], model["inside"]) == ("mine", False)
    assert children(blind) == []
    blind.end()
    seeing = start(f"mine={DIGITS}", "--address", address)
    assert first_message(seeing)["models"][0]["inside"]
    seeing.end()


def refused(*words: str) -> str:
    command = [sys.executable, "-m", "torso", "playground", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_what_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1 port {port}" in refused("--port", str(port))
    assert "choose with NAME=DIR" in refused(str(DIGITS), f"{os.fspath(DIGITS)}/")
    assert "there is no such directory" in refused(str(tmp_path / "none"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.json").write_text("{")
    assert "is not JSON" in refused(str(tmp_path / "broken"))
    assert "--allow-plaintext" in refused("--host", "0.0.0.0")
    assert "--tls must go with --address" in refused("--tls")
    assert "cannot be read" in refused("--address", "127.0.0.1:1", "--token-file", str(tmp_path / "none"))


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) <= 300_000
