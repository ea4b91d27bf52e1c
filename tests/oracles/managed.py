"""Model manager over a real repository folder and this process' models; changes and snapshots of such folders."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from torso.serve import ServeConfig
from torso.serve.models.catalogue import Catalogue
from torso.serve.models.manager import Manager
from torso.serve.models.repository import Repository
from torso.serve.observability.metrics import Metrics


class Served:
    """Model manager of a repository folder, and the models of this process."""

    def __init__(self, config: ServeConfig, wrap_backend: Any = None) -> None:
        self.models = Repository(config, Metrics(), wrap_backend)
        self.manager = Manager(config, Catalogue(config), self.models)

    async def answers(self) -> dict[tuple[str, str], float]:
        """Return each served version's prediction for a zero observation."""
        answers = {}
        for model in self.models.served:
            with model.batcher.admit(1, "observations") as admission:
                readout = await model.batcher.submit(np.zeros((1, 4), dtype=np.float32), admission)
            answers[model.name, model.version] = float(readout[0, 0])
        return answers

    async def states(self) -> dict[tuple[str, str], tuple[str, str]]:
        return {(line.name, line.version): (line.state, line.reason) for line in await self.manager.index()}


@contextlib.asynccontextmanager
async def started(config: ServeConfig, wrap_backend: Any = None) -> AsyncIterator[Served]:
    served = Served(config, wrap_backend)
    try:
        await served.manager.start()
        yield served
    finally:
        await served.manager.close()
        served.models.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


def truncate(directory: Path) -> None:
    weights = directory / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Snapshot a folder: modes, times but for access times, and bytes of all files."""
    paths = [folder, *sorted(folder.rglob("*"))]
    return {
        str(path.relative_to(folder)): (
            *((status := path.lstat()).st_mode, status.st_mtime_ns, status.st_ctime_ns),
            path.read_bytes() if path.is_file() else b"",
        )
        for path in paths
    }
