"""Entry point: serve the page until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torso.errors import ConfigError
from torso.playground.config import DIGITS, PlaygroundConfig
from torso.playground.draw.drawing import Draw
from torso.playground.draw.network_views import NetworkViews
from torso.playground.draw.unit_views import UnitViews
from torso.playground.page import Page
from torso.playground.served import READY_S, OwnServer
from torso.playground.sessions import PageSession
from torso.playground.train.live_runs import LiveRuns
from torso.playground.train.run_folder import RunFolder
from torso.playground.train.training import Train

if TYPE_CHECKING:
    from torso.serve import AsyncClient

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def serve_playground(config: PlaygroundConfig, on_ready: Callable[[str], None]) -> None:
    """`run_playground` in an event loop of its own, until SIGINT, SIGTERM or SIGHUP."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        serving = loop.create_task(run_playground(config, on_ready))
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            loop.add_signal_handler(number, serving.cancel)
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(serving)
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


async def run_playground(config: PlaygroundConfig, on_ready: Callable[[str], None]) -> None:
    """Serve the page until cancelled. ``on_ready`` is called with the address to open, at once: models load behind it.

    Raises:
        ServerError: the address of the page is taken; a model's name is used twice.
        ModelNotFoundError: there is none in a directory.
        ConfigError: the token's file cannot be read.
    """
    session = PageSession(config.host)
    server: OwnServer | None = None
    directories = _directories(config)
    token = _token(config)

    async def connect() -> AsyncClient:
        nonlocal server
        from torso.serve import AsyncClient

        address = config.address
        if address is None:
            server = OwnServer([f"{name}={path}" for name, path in directories.items()])
            address = await server.start()
        client = AsyncClient(
            address, token, tls=config.tls, tls_ca=config.tls_ca, tls_cert=config.tls_cert, tls_key=config.tls_key
        )
        await client.wait_ready(READY_S)
        return client

    async def client() -> AsyncClient:
        return await asyncio.shield(opening)

    views = NetworkViews(directories)
    units = UnitViews(views)
    runs = LiveRuns(RunFolder(config.runs))
    with ThreadPoolExecutor(1, "torso-views") as thread:
        page = Page(
            session,
            {
                "draw": lambda send: Draw(client, views, units, thread, send),
                "train": lambda send: Train(runs, send),
            },
        )
        await page.start(config.host, config.port)
        opening = asyncio.ensure_future(connect())
        try:
            on_ready(session.url)
            for name in directories:  # torch is imported meanwhile, which takes a second or two
                thread.submit(views.load, name)
            await asyncio.Event().wait()
        finally:
            await page.stop()
            await runs.close()
            opening.cancel()
            found = (await asyncio.gather(opening, return_exceptions=True))[0]
            if not isinstance(found, BaseException):
                await found.close()
            if server is not None:
                await server.stop()


def _directories(config: PlaygroundConfig) -> dict[str, Path]:
    from torso.nets.models.directory import find_model
    from torso.serve.models.catalogue import parse_models

    models = config.models
    if not models and config.address is None:
        models = (str(DIGITS),)
    directories = parse_models(models)
    for path in directories.values():
        find_model(path)
    return directories


def _token(config: PlaygroundConfig) -> str | None:
    if config.token_file is None:
        return None
    try:
        return config.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {config.token_file} cannot be read: {error}") from error
