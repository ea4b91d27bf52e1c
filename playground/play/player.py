"""Play: the games of one tab, and the visitor's hand in them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torso.checks import share, whole
from torso.errors import ConfigError, TorsoError
from torso.playground.messages import Newest, SendToTab, TabMessage
from torso.playground.play.performance import Performance, checked_speed
from torso.playground.play.repertoire import GAMES, Repertoire

SEEDS = 1 << 31


@dataclass(frozen=True)
class Wish:
    """Game that a tab asks for. ``model`` None: without a policy. ``seed``: of its env and its chances."""

    game: str
    model: str | None
    seed: int


class Player:
    """Part of a tab that plays: one game at a time, the last that was asked for."""

    def __init__(self, repertoire: Repertoire, send: SendToTab) -> None:
        self._repertoire = repertoire
        self._send = send
        self._wishes: Newest[Wish] = Newest()
        self._performance: Performance | None = None

    def put(self, message: TabMessage) -> None:
        """Take a wish for a game (``start``), or what the visitor does in the one that goes on."""
        if message.type == "start":
            self._wishes.put(_wish(message.fields))
        elif message.type in HANDLERS:
            if self._performance is not None:  # else it is about a game that has gone
                HANDLERS[message.type](self._performance, message.fields)
                self._performance.changed()
        else:
            raise ConfigError(f"type must be start, {', '.join(HANDLERS)}, got {message.type!r}")

    async def run(self) -> None:
        """Tell the tab what can be played, and play what it asks for."""
        await self._send_repertoire()
        playing: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            while True:
                wish = await self._wishes.take()
                if playing is not None:
                    playing.cancel()
                    await asyncio.wait([playing])
                playing = tasks.create_task(self._perform(wish))

    async def _send_repertoire(self) -> None:
        try:
            policies = await self._repertoire.policies()
        except TorsoError as error:
            await self._send("failed", text=str(error))
            return
        games = {**{policy.env_id: GAMES.get(policy.env_id, policy.env_id) for policy in policies}, **GAMES}
        await self._send(
            "repertoire",
            games=[{"id": name, "title": title, "plain": name in GAMES} for name, title in games.items()],
            policies=[policy.to_json() for policy in policies],
        )

    async def _perform(self, wish: Wish) -> None:
        try:
            world, policy = await self._repertoire.choose(wish.game, wish.model)
            self._performance = Performance(world, policy, self._send, seed=wish.seed)
            await self._performance.run()
        except TorsoError as error:
            await self._send("trouble", text=str(error))
        finally:
            self._performance = None


def _wish(fields: Mapping[str, Any]) -> Wish:
    game, model, seed = fields.get("game"), fields.get("model"), fields.get("seed")
    if not isinstance(game, str) or not isinstance(model, (str, type(None))):
        raise ConfigError(f"a game must be a name, and so must its model be, or null, got {game!r} and {model!r}")
    if seed is None:
        seed = secrets.randbelow(SEEDS)
    return Wish(game, model, whole("seed", seed, least=0, most=SEEDS - 1))


def _set_speed(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.speed = checked_speed(fields.get("speed"))


def _set_epsilon(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.epsilon = share("epsilon", fields.get("epsilon"))


def _pause(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.is_paused = bool(fields.get("on"))
    performance.controls.single_steps = 0


def _step_once(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.single_steps = 1


def _hide(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.is_hidden = bool(fields.get("on"))


def _take_over(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.is_by_hand = bool(fields.get("on"))
    performance.controls.pressed = None


def _press(performance: Performance, fields: Mapping[str, Any]) -> None:
    action = fields.get("action")
    most = performance.num_actions - 1
    performance.controls.pressed = None if action is None else whole("action", action, least=0, most=most)


def _again(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.controls.is_again = True


def _seen(performance: Performance, fields: Mapping[str, Any]) -> None:
    performance.seen(whole("serial", fields.get("serial"), least=0))


HANDLERS = {
    "speed": _set_speed,
    "epsilon": _set_epsilon,
    "pause": _pause,
    "step": _step_once,
    "hide": _hide,
    "hand": _take_over,
    "press": _press,
    "again": _again,
    "seen": _seen,
}
"""Handlers of messages about a game that goes on, by type."""
