"""The seam between what answers requests and what decides which models there are.

A `Control` looks after the repository as a whole: the manager itself, or, in a worker, a line to the supervisor's. A
`Replica` is one process' loaded models, as the manager sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torso.serve.observability.metrics import Snapshot

ModelState = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(frozen=True, kw_only=True)
class VersionSource:
    """Where one version of a model is read from. ``stamp`` changes when what lies there does."""

    name: str
    version: str
    directory: Path
    stamp: str = ""


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """One line of the repository's index. ``reason`` says why it is not READY, or what came of a newer content."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


def named_states(index: Iterable[VersionState]) -> list[tuple[str, str, str]]:
    """The index as plain names: each version's model, its own name and its state."""
    return [(version.name, version.version, version.state) for version in index]


class Control(Protocol):
    """The repository as a whole, over all workers."""

    async def index(self) -> Sequence[VersionState]:
        """Every model that there is, loaded or not, sorted by name and version."""

    async def load(self, name: str) -> None:
        """Load a model, or load it anew; every worker serves it when this returns.

        Raises UnknownModelError where the repository has none of that name, ServiceError where its models do not change
        on demand, or where it cannot be loaded: what served before still does.
        """

    async def unload(self, name: str) -> None:
        """Serve a model no more; no worker does when this returns. Raises as `load`."""

    async def snapshot(self) -> Snapshot:
        """The counts of all workers, those that died included."""


class Replica(Protocol):
    """One process' loaded models. A change is prepared on every replica before any of them switches."""

    async def prepare(self, source: VersionSource) -> None:
        """Load and warm up a version beside what serves. Raises TorsoError or OSError; nothing has changed then."""

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Serve exactly these from now on, at once: prepared ones begin, others go on or end, none is interrupted."""

    async def discard(self, source: VersionSource) -> None:
        """Drop what was prepared."""

    async def snapshot(self) -> Snapshot:
        """This process' counts."""
