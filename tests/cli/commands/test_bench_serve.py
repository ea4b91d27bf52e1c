"""Tests of ``torso bench-serve`` against a real server."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torso.serve import ServeConfig, create_server

Run = Callable[..., Any]
BRIEFLY = ("--duration-s", 0.3, "--warmup-s", 0.1, "--deadline-s", 20)


@pytest.fixture(scope="module")
def address(models: Any) -> Iterator[str]:
    """Start a server of two models, on an event loop in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    config = ServeConfig(models=(str(models.digits), str(models.cartpole)), port=0)
    server = asyncio.run_coroutine_threadsafe(create_server(config), loop).result(60)
    yield server.address
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_table_a_json_and_a_picture(run: Run, address: str, tmp_path: Path) -> None:
    command = ("bench-serve", "--address", address, "--model", "digits", *BRIEFLY, "--rows", 3)
    ended = run(*command, "--in-flight", 1, 4, "--rate", 50, "--arrivals", "constant", "--plot", tmp_path / "load.png")
    assert ended.code == 0, ended
    header, *lines = ended.out.splitlines()
    assert header.split()[:3] == ["load", "answers/s", "in"]
    assert [line.split("  ")[0] for line in lines[:3]] == ["1 in flight", "4 in flight", "50/s offered"]
    assert all(line.endswith("none") for line in lines[:3])
    assert lines[-1] == f"plot: {tmp_path / 'load.png'}"
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    assert "1 in flight: 0.4 s" in ended.err

    ended = run(*command, "--rate", 100, "--protocol", "torso", "--json")
    figures = json.loads(ended.out)
    assert (figures["model"], figures["version"], figures["protocol"]) == ("digits", "1", "torso")
    [load] = figures["loads"]
    assert load["in_flight"] is None
    assert load["errors"] == {}
    assert load["sent"] == load["answered"] > 0
    assert set(load["latency_ms"]) == {"p50", "p90", "p99", "p99.9", "mean", "max"}
    assert load["rows_per_s"] == pytest.approx(3 * load["throughput"])


def test_beside_a_bare_echo(run: Run, address: str) -> None:
    ended = run("bench-serve", "--address", address, "--model", "cartpole", *BRIEFLY, "--in-flight", 2, "--echo")
    assert ended.code == 0, ended
    lines = ended.out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["2 in flight", "echo 2 in flight"]
    assert lines[3].startswith("2 in flight: ")
    assert lines[3].endswith("% of a bare echo's answers/s")


def test_mistakes_end_in_a_line(run: Run, address: str, tmp_path: Path) -> None:
    command = ("bench-serve", "--address", address, *BRIEFLY)
    assert (
        run(*command).error == f"--model must be one of the served models, got none; {address} serves cartpole, digits"
    )
    assert "unknown model 'nobody'" in run(*command, "--model", "nobody").error
    assert "--in-flight must be at least 1, got 0" in run(*command, "--model", "digits", "--in-flight", 0).error
    assert "--plot must be a file name that ends in .png" in run(*command, "--plot", tmp_path / "load.pdf").error
    assert "--connections must be at least 1" in run(*command, "--connections", 0).error
    assert "--duration-s must be more than 0" in run("bench-serve", "--duration-s", 0).error
    assert "no answer from 127.0.0.1:1" in run("bench-serve", "--address", "127.0.0.1:1").error
    assert "go together" in run(*command, "--tls-cert", tmp_path / "cert.pem").error
