"""Interfaces between request handling and model management.

A `Control` manages the repository as a whole: the manager itself, or, in a worker, a connection to the supervisor's. A
`Replica` is one process' loaded models, as the manager sees them.
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
    """Source of one version of a model: its directory. ``stamp`` changes when the directory's content does."""

    name: str
    version: str
    directory: Path
    stamp: str = ""


# Reasons that tell nothing of what a version's files are, or hold:
GONE, NO_CARD = "its files are gone", "it has no model.json"
NOT_SELECTED, NOT_LOADED = "the version policy does not select it", "it is not loaded"


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """Entry of the repository's index. ``reason``: why it is not READY, or why newer content was not loaded."""

    name: str
    version: str
    state: ModelState
    reason: str = ""

    @property
    def public_reason(self) -> str:
        """Reason for callers who are no admins: an error's own text may name what only the operator should see."""
        if self.reason in ("", GONE, NO_CARD, NOT_SELECTED, NOT_LOADED):
            return self.reason
        return "its files cannot be loaded; the server's log says why"


def named_states(index: Iterable[VersionState]) -> list[tuple[str, str, str]]:
    """Convert the index to plain strings: each version's model, its own name and its state."""
    return [(version.name, version.version, version.state) for version in index]


class Control(Protocol):
    """Management of the repository as a whole, over all workers."""

    async def index(self) -> Sequence[VersionState]:
        """List every model of the repository, loaded or not, sorted by name and version."""

    async def load(self, name: str) -> None:
        """Load a model, or load it anew; every worker serves it when this returns.

        Raises UnknownModelError where the repository has none of that name, ServiceError where its models do not change
        on demand, or where it cannot be loaded: the versions that served before still do.
        """

    async def unload(self, name: str) -> None:
        """Unload a model; no worker serves it when this returns. Raises as `load`."""

    async def snapshot(self) -> Snapshot:
        """Return the counts of all workers, those that died included."""


class Replica(Protocol):
    """Loaded models of one process. A change is prepared on every replica before any of them switches."""

    async def prepare(self, source: VersionSource) -> None:
        """Load and warm up a version in the background. Raises TorsoError or OSError; nothing has changed then."""

    async def switch(self, serving: Sequence[VersionSource]) -> None:
        """Serve exactly these from now on, atomically; requests in flight finish on the version they began with."""

    async def discard(self, source: VersionSource) -> None:
        """Unload a prepared version that is not to serve."""

    async def snapshot(self) -> Snapshot:
        """Return this process' counts."""
