"""Entry point: serve the page until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torso.errors import ConfigError
from torso.playground.config import DIGITS, POLICIES, PlaygroundConfig
from torso.playground.draw.drawing import Draw
from torso.playground.draw.network_views import NetworkViews
from torso.playground.draw.unit_views import UnitViews
from torso.playground.page import Page, TabParts
from torso.playground.plane.plane_tab import PlaneTab
from torso.playground.play.player import Player
from torso.playground.play.repertoire import ChooseWorld, Repertoire, recorded_choice
from torso.playground.served import READY_S, OwnServer
from torso.playground.sessions import PageSession
from torso.playground.train.live_runs import LiveRuns
from torso.playground.train.run_folder import RunFolder
from torso.playground.train.training import Train

if TYPE_CHECKING:
    from torso.serve import AsyncClient

AFTER_S = 1.0  # from one server's readiness to the next one's begin: the first guess has the machine to itself
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


def serve_playground(
    config: PlaygroundConfig, on_ready: Callable[[str], None], choose_world: ChooseWorld = recorded_choice
) -> None:
    """`run_playground` in an event loop of its own, until SIGINT, SIGTERM or SIGHUP."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        serving = loop.create_task(run_playground(config, on_ready, choose_world))
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


async def run_playground(
    config: PlaygroundConfig, on_ready: Callable[[str], None], choose_world: ChooseWorld = recorded_choice
) -> None:
    """Serve the page until cancelled. ``on_ready`` is called with the address to open, at once: models load behind it.

    choose_world: makes the env of a policy's training.

    Raises:
        ServerError: the address of the page is taken; a model's name is used twice.
        ModelNotFoundError: there is none in a directory.
        ConfigError: the token's file cannot be read.
    """
    session = PageSession(config.host)
    directories, kinds = _directories(config)
    token = _token(config)
    policies = [name for name, kind in kinds.items() if kind == "policy"]
    others = [name for name in directories if name not in policies]
    drawing = _Connection(config, token, {name: directories[name] for name in others})
    playing = drawing  # one server has all, if it is not the playground's own
    if config.address is None:  # the first guess does not wait until policies are loaded
        playing = _Connection(config, token, {name: directories[name] for name in policies}, after=drawing)
    views = NetworkViews({name: path for name, path in directories.items() if kinds[name] == "classifier"})
    units = UnitViews(views)
    runs = LiveRuns(RunFolder(config.runs))
    with ThreadPoolExecutor(1, "torso-views") as thread:
        repertoire = Repertoire(playing.client, directories, choose_world)
        parts: TabParts = {
            "draw": lambda send: Draw(drawing.client, views, units, thread, send),
            "plane": PlaneTab,
            "play": lambda send: Player(repertoire, send),
            "train": lambda send: Train(runs, send),
        }
        page = Page(session, parts)
        await page.start(config.host, config.port)
        connections = {drawing, playing}
        for connection in (drawing, playing):
            connection.begin()
        try:
            on_ready(session.url)
            await drawing.opened()  # the server, and with it the first guess, comes before what is inside
            for name in views.models:  # torch is imported, which takes a second or two
                thread.submit(views.load, name)
            await asyncio.Event().wait()
        finally:
            await page.stop()
            await runs.close()
            await asyncio.gather(*(connection.close() for connection in connections))


class _Connection:
    """Connection to the gRPC server at ``--address``, or to one of the playground's own, for some models.

    after: another connection, whose server is ready before this one's begins.
    """

    def __init__(
        self,
        config: PlaygroundConfig,
        token: str | None,
        directories: Mapping[str, Path],
        after: _Connection | None = None,
    ) -> None:
        self._config = config
        self._token = token
        self._directories = directories
        self._after = after
        self._server: OwnServer | None = None
        self._opening: asyncio.Task[AsyncClient] | None = None

    def begin(self) -> None:
        """Begin to connect."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())

    async def client(self) -> AsyncClient:
        """Wait for the client. Raises ServerError where the server did not start, UnavailableError where it is away."""
        assert self._opening is not None  # noqa: S101 - it has begun before the page is served
        return await asyncio.shield(self._opening)

    async def opened(self) -> None:
        """Wait until it stands, or has failed."""
        if self._opening is not None:
            await asyncio.wait([self._opening])

    async def close(self) -> None:
        """Close the client, and end the playground's own server."""
        if self._opening is not None:
            self._opening.cancel()
            found = (await asyncio.gather(self._opening, return_exceptions=True))[0]
            if not isinstance(found, BaseException):
                await found.close()
        if self._server is not None:
            await self._server.stop()

    async def _open(self) -> AsyncClient:
        from torso.serve import AsyncClient

        if self._after is not None:
            await self._after.opened()
            await asyncio.sleep(AFTER_S)
        config, address = self._config, self._config.address
        if address is None:
            self._server = OwnServer([f"{name}={path}" for name, path in self._directories.items()])
            address = await self._server.start()
        client = AsyncClient(
            address, self._token, tls=config.tls, tls_ca=config.tls_ca, tls_cert=config.tls_cert, tls_key=config.tls_key
        )
        await client.wait_ready(READY_S)
        return client


def _directories(config: PlaygroundConfig) -> tuple[dict[str, Path], dict[str, str]]:
    """Find the models' directories and kinds by name; those that come with torso stand in where a kind is missing."""
    from torso.serve.models.catalogue import parse_models

    directories = parse_models(config.models)
    kinds = {name: _kind_of(path) for name, path in directories.items()}
    if config.address is None:
        given = set(kinds.values())
        bundled = [*([] if "classifier" in given else [DIGITS]), *([] if "policy" in given else POLICIES)]
        directories = {**{path.name: path for path in bundled}, **directories}
        kinds = {**{path.name: _kind_of(path) for path in bundled}, **kinds}
    return directories, kinds


def _kind_of(path: Path) -> str:
    from torso.nets.models.card import read_card
    from torso.nets.models.directory import find_model

    return read_card(find_model(path)).kind


def _token(config: PlaygroundConfig) -> str | None:
    if config.token_file is None:
        return None
    try:
        return config.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {config.token_file} cannot be read: {error}") from error
