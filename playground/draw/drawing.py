"""Draw: guesses of a classifier for what a tab draws, and what its network sees in that, while the pen moves.

Guesses and pictures are each made of the newest drawing that has come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torso.errors import ConfigError, InputError, InvalidRequestError, TorsoError
from torso.playground.draw.network_views import NetworkViews, Plate
from torso.playground.draw.unit_views import UnitViews
from torso.playground.messages import Newest, SendToTab, TabMessage

if TYPE_CHECKING:
    from torso.serve import AsyncClient

NUM_GUESSES = 10
GUESS_S = 10.0


@dataclass(frozen=True, eq=False)
class Drawing:
    """Drawing of a tab: an image file. ``serial``: the tab's number for it, which comes back with the answers."""

    serial: int
    model: str
    image: bytes
    hidden: tuple[str, ...]


@dataclass(frozen=True)
class UnitQuestion:
    """Question of a tab about a unit."""

    model: str
    layer: str
    unit: int


def parse_question(message: TabMessage) -> UnitQuestion:
    """Read a question about a unit. ConfigError where it is none."""
    asked = message.fields
    try:
        return UnitQuestion(model=str(asked["model"]), layer=str(asked["layer"]), unit=int(asked["unit"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"a question must have a model, a layer and a unit, got {sorted(asked)}") from error


def parse_drawing(message: TabMessage) -> Drawing:
    """Read a drawing. ConfigError where it is none."""
    header = message.fields
    try:
        return Drawing(
            serial=int(header["serial"]),
            model=str(header["model"]),
            image=message.body,
            hidden=tuple(str(name) for name in header.get("hidden", ())),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"a drawing must have a serial and a model, got {sorted(header)}") from error


def described_plates(plates: Sequence[Plate]) -> tuple[list[dict[str, Any]], bytes]:
    """Describe pictures for a message, whose body is their pixels, one after the other."""
    descriptions = [
        {
            "name": plate.name,
            "shape": list(plate.pixels.shape),
            "low": plate.low,
            "high": plate.high,
            "units": plate.num_units,
        }
        for plate in plates
    ]
    return descriptions, b"".join(plate.pixels.tobytes() for plate in plates)


class Draw:
    """Drawings of one tab."""

    def __init__(
        self,
        client: Callable[[], Awaitable[AsyncClient]],
        views: NetworkViews,
        units: UnitViews,
        thread: Executor,
        send: SendToTab,
    ) -> None:
        self._client = client
        self._views = views
        self._units = units
        self._thread = thread
        self._send = send
        self._to_guess: Newest[Drawing] = Newest()
        self._to_look: Newest[Drawing] = Newest()
        self._asked: Newest[UnitQuestion] = Newest()

    def put(self, message: TabMessage) -> None:
        """Take a drawing, or a question about a unit; older ones that wait are left out."""
        if message.type == "unit":
            self._asked.put(parse_question(message))
            return
        drawing = parse_drawing(message)
        self._to_guess.put(drawing)
        if drawing.model in self._views:
            self._to_look.put(drawing)

    async def run(self) -> None:
        """Answer the newest drawing, and the newest question, again and again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_models())
            tasks.create_task(self._repeat(self._to_guess, self._guess))
            tasks.create_task(self._repeat(self._to_look, self._look))
            tasks.create_task(self._explain_units())

    async def _send_models(self) -> None:
        """Tell the tab of the classifiers of images, once the server is ready."""
        found = []
        try:
            client = await self._client()
            for summary in await client.list_models():
                if summary.kind == "classifier":
                    info = await client.get_model(summary.name)
                    if info.image is not None:
                        found.append({"name": info.name, "labels": info.labels, "inside": info.name in self._views})
        except TorsoError as error:
            await self._send("failed", text=str(error))
        else:
            await self._send("models", models=found)

    async def _explain_units(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = await self._asked.take()
            try:
                if asked.model not in self._views:
                    raise ConfigError(
                        f"the directory of {asked.model!r} must be among the models, got none of this name"
                    )
                view = await loop.run_in_executor(self._thread, self._units.look, asked.model, asked.layer, asked.unit)
            except TorsoError as error:
                await self._send("no-unit", text=str(error))
            else:
                header = {name: getattr(view, name) for name in ("layer", "unit", "num_units", "drives", "note")}
                plates, pixels = described_plates(view.plates)
                await self._send("unit", pixels, model=asked.model, plates=plates, **header)

    async def _repeat(self, newest: Newest[Drawing], answer: Callable[[Drawing], Awaitable[None]]) -> None:
        while True:
            drawing = await newest.take()
            try:
                await answer(drawing)
            except (InputError, InvalidRequestError) as error:
                # A sheet whose strokes were all erased, as decode_image says it, or a file that is no image.
                kind = "blank" if "got a blank one" in str(error) else "error"
                await self._send(kind, serial=drawing.serial, text=str(error))
            except TorsoError as error:
                await self._send("error", serial=drawing.serial, text=str(error))

    async def _guess(self, drawing: Drawing) -> None:
        client = await self._client()
        result = await client.classify_images(drawing.model, [drawing.image], NUM_GUESSES, timeout_s=GUESS_S)
        ranking = [
            {"label": label, "probability": float(probability)}
            for label, probability in zip(result.labels[0], result.probabilities[0], strict=True)
        ]
        await self._send("guess", serial=drawing.serial, model=drawing.model, ranking=ranking)

    async def _look(self, drawing: Drawing) -> None:
        loop = asyncio.get_running_loop()
        try:
            plates = await loop.run_in_executor(
                self._thread, self._views.look, drawing.model, drawing.image, drawing.hidden
            )
        except InputError:
            return  # the guess says the same of this drawing
        descriptions, pixels = described_plates(plates)
        await self._send("pictures", pixels, serial=drawing.serial, plates=descriptions)
