"""Repertoire: the games that can be played, and the policies that can play them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torso.errors import ConfigError
from torso.playground.play.policies import ServedPolicy

if TYPE_CHECKING:
    from torso.envs.vector.world import World
    from torso.serve import AsyncClient, ModelInfo

ChooseWorld = Callable[[Mapping[str, Any], bool], "World"]
"""Makes the world of a policy's training from its provenance, and whether that comes from a server."""

GAMES = {
    "CartPole-v1": "CartPole",
    "torso/Forager-v0": "Forager",
    "ALE/Pong-v5": "Pong",
    "ALE/Breakout-v5": "Breakout",
    "MinAtar/Asterix-v1": "MinAtar Asterix",
    "MinAtar/Breakout-v1": "MinAtar Breakout",
    "MinAtar/Freeway-v1": "MinAtar Freeway",
    "MinAtar/Seaquest-v1": "MinAtar Seaquest",
    "MinAtar/SpaceInvaders-v1": "MinAtar Space Invaders",
}
"""Games that need no policy, and their titles."""


@dataclass(frozen=True)
class KnownPolicy:
    """Policy that is served, and the env of its training."""

    name: str
    env_id: str
    info: ModelInfo

    def to_json(self) -> dict[str, Any]:
        """Describe it for the page."""
        provenance = self.info.provenance_data
        algorithm = provenance.get("algorithm")  # all that callers without the admin's role see
        config = provenance.get("config")
        if algorithm is None and isinstance(config, Mapping):
            algorithm = config.get("algorithm")
        return {"name": self.name, "game": self.env_id, "algorithm": str(algorithm or "")}


class Repertoire:
    """Games and policies of one playground.

    client: awaits the client of the gRPC server. directories: of the models that are on this machine. choose_world: see
    `ChooseWorld`.
    """

    def __init__(
        self,
        client: Callable[[], Awaitable[AsyncClient]],
        directories: Mapping[str, Path],
        choose_world: ChooseWorld,
    ) -> None:
        self._client = client
        self._directories = directories
        self._choose_world = choose_world

    async def policies(self) -> list[KnownPolicy]:
        """List the served policies whose env is known."""
        client = await self._client()
        found = []
        for summary in await client.list_models():
            if summary.kind == "policy":
                info = await client.get_model(summary.name)
                if "env_id" in info.provenance:
                    found.append(KnownPolicy(info.name, info.provenance["env_id"], info))
        return found

    async def choose(self, game: str, model: str | None) -> tuple[World, ServedPolicy | None]:
        """Make the world of a game, and its policy. ``model`` None: there is no policy, and the game is one of `GAMES`.

        Raises ConfigError for an unknown one, EnvError where its env cannot be made or does not fit.
        """
        if model is None:
            if game not in GAMES:
                raise ConfigError(f"game must be one of {', '.join(GAMES)}, or a policy's own, got {game!r}")
            return await asyncio.to_thread(_plain_world, game), None
        known = {policy.name: policy for policy in await self.policies()}
        if model not in known:
            raise ConfigError(f"model must be one of {', '.join(known) or 'none'}, got {model!r}")
        world = await asyncio.to_thread(self._world_of, known[model])
        return world, ServedPolicy(await self._client(), model, self._directories.get(model))

    def _world_of(self, policy: KnownPolicy) -> World:
        from torso.envs.vector.model_fit import interface_of, require_fit
        from torso.nets.models.card import read_card

        directory = self._directories.get(policy.name)
        if directory is None:
            world = self._choose_world(policy.info.provenance_data, True)
        else:
            world = self._choose_world(read_card(_model_in(directory)).provenance, False)
        if policy.info.interface is not None:
            require_fit(policy.info.interface, interface_of(world.spec), world.name)
        return world


def recorded_choice(provenance: Mapping[str, Any], is_served: bool) -> World:
    """Make the world that a policy recorded, where its env is registered already: the usual `ChooseWorld`."""
    from torso.envs.vector.world import recorded_env, recorded_world

    where = "the server" if is_served else "the model"
    return recorded_world(provenance, recorded_env(provenance, where), where=where)


def _plain_world(game: str) -> World:
    from torso.envs.vector.world import World

    return World(env=game)


def _model_in(directory: Path) -> Path:
    from torso.nets.models.directory import find_model

    return find_model(directory)
