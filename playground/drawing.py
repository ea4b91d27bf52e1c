"""Draw: guesses of a classifier for what a tab draws, and what its network sees in that, while the pen moves.

A tab sends drawings as binary messages, and gets guesses as text and pictures as binary messages; either kind is made
of the newest drawing that has come. A binary message is a JSON object behind its length (4 bytes, little-endian), and
then bytes: an image file, or the pixels of pictures.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torso.errors import ConfigError, InputError, InvalidRequestError, TorsoError
from torso.playground.network_views import NetworkViews, Plate
from torso.playground.unit_views import UnitViews

if TYPE_CHECKING:
    from torso.serve import AsyncClient

T = TypeVar("T")
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


def parse_question(text: str) -> UnitQuestion:
    """Parse a text message of the page. ConfigError where it is none."""
    try:
        asked = json.loads(text)
        return UnitQuestion(model=str(asked["model"]), layer=str(asked["layer"]), unit=int(asked["unit"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"a text message must be a JSON object with model, layer and unit, got {text[:80]!r}"
        ) from error


def parse_drawing(message: bytes) -> Drawing:
    """Parse a binary message of the page. ConfigError where it is none."""
    try:
        (length,) = struct.unpack_from("<I", message)
        header = json.loads(message[4 : 4 + length])
        return Drawing(
            serial=int(header["serial"]),
            model=str(header["model"]),
            image=message[4 + length :],
            hidden=tuple(str(name) for name in header.get("hidden", ())),
        )
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"a message must be the length of a JSON object, the object with serial and model, and an image, got "
            f"{len(message)} other bytes"
        ) from error


def pictures_message(header: Mapping[str, Any], plates: Sequence[Plate]) -> bytes:
    """Build a message of pictures: the header, to which their descriptions are added, and their pixels."""
    described = [
        {
            "name": plate.name,
            "shape": list(plate.pixels.shape),
            "low": plate.low,
            "high": plate.high,
            "units": plate.num_units,
        }
        for plate in plates
    ]
    text = json.dumps({**header, "plates": described}).encode()
    return b"".join([struct.pack("<I", len(text)), text, *(plate.pixels.tobytes() for plate in plates)])


class Newest(Generic[T]):
    """Slot for the newest of what a tab sends: what nobody has taken yet is replaced."""

    def __init__(self) -> None:
        self._slot: deque[T] = deque(maxlen=1)
        self._has_come = asyncio.Event()

    def put(self, message: T) -> None:
        """Replace what is there."""
        self._slot.append(message)
        self._has_come.set()

    async def take(self) -> T:
        """Wait for a message, and take it."""
        await self._has_come.wait()
        self._has_come.clear()
        return self._slot.pop()


class Draw:
    """Drawings of one tab. ``send`` sends it a message: a mapping as text, or bytes.

    `run` answers until it is cancelled; `put` gives it a drawing, `ask` a question.
    """

    def __init__(
        self,
        client: Callable[[], Awaitable[AsyncClient]],
        views: NetworkViews,
        units: UnitViews,
        thread: Executor,
        send: Callable[[Mapping[str, Any] | bytes], Awaitable[None]],
    ) -> None:
        self._client = client
        self._views = views
        self._units = units
        self._thread = thread
        self._send = send
        self._to_guess: Newest[Drawing] = Newest()
        self._to_look: Newest[Drawing] = Newest()
        self._asked: Newest[UnitQuestion] = Newest()

    def put(self, drawing: Drawing) -> None:
        """Take a drawing; older ones that wait are left out."""
        self._to_guess.put(drawing)
        if drawing.model in self._views:
            self._to_look.put(drawing)

    def ask(self, question: UnitQuestion) -> None:
        """Take a question about a unit."""
        self._asked.put(question)

    async def run(self) -> None:
        """Answer the newest drawing, and the newest question, again and again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._repeat(self._to_guess, self._guess))
            tasks.create_task(self._repeat(self._to_look, self._look))
            tasks.create_task(self._explain_units())

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
                await self._send({"type": "no-unit", "text": str(error)})
            else:
                header = {name: getattr(view, name) for name in ("layer", "unit", "num_units", "drives", "note")}
                await self._send(pictures_message({"type": "unit", "model": asked.model, **header}, view.plates))

    async def _repeat(self, newest: Newest[Drawing], answer: Callable[[Drawing], Awaitable[None]]) -> None:
        while True:
            drawing = await newest.take()
            try:
                await answer(drawing)
            except (InputError, InvalidRequestError) as error:
                # A sheet whose strokes were all erased, as decode_image says it, or a file that is no image.
                kind = "blank" if "got a blank one" in str(error) else "error"
                await self._send({"type": kind, "serial": drawing.serial, "text": str(error)})
            except TorsoError as error:
                await self._send({"type": "error", "serial": drawing.serial, "text": str(error)})

    async def _guess(self, drawing: Drawing) -> None:
        client = await self._client()
        result = await client.classify_images(drawing.model, [drawing.image], NUM_GUESSES, timeout_s=GUESS_S)
        ranking = [
            {"label": label, "probability": float(probability)}
            for label, probability in zip(result.labels[0], result.probabilities[0], strict=True)
        ]
        await self._send({"type": "guess", "serial": drawing.serial, "model": drawing.model, "ranking": ranking})

    async def _look(self, drawing: Drawing) -> None:
        loop = asyncio.get_running_loop()
        try:
            plates = await loop.run_in_executor(
                self._thread, self._views.look, drawing.model, drawing.image, drawing.hidden
            )
        except InputError:
            return  # the guess says the same of this drawing
        await self._send(pictures_message({"type": "pictures", "serial": drawing.serial}, plates))
