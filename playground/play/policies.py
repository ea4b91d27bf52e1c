"""Policies of the page's games: action values from the server or from a model directory, and returns' distributions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torso.insight.units.return_distributions import ReturnDistributions
    from torso.nets import Network, Predictor
    from torso.serve import AsyncClient

ACT_S = 10.0


@dataclass(frozen=True, eq=False)
class Judgement:
    """Judgement of a policy on one observation.

    ``values``: float32 [A], of each action; ``state``: what it remembers, for the next call.
    """

    values: NDArray[np.float32]
    state: tuple[Any, ...]


class StagePolicy(Protocol):
    """Policy of a performance. ``thread``: the performance's own, for what takes time."""

    async def judge(self, obs: NDArray[Any], state: Sequence[Any], thread: Executor) -> Judgement:
        """Value each action after an observation, [1, *shape]. ``state``: the last call's; empty at a start."""
        ...

    async def distributions(self, obs: NDArray[Any], thread: Executor) -> ReturnDistributions | None:
        """Compute the distribution of each action's return; None where the head has none, or it is not at hand."""
        ...


class ServedPolicy:
    """Policy whose values come from the gRPC server, and whose distributions from its directory, where that is here."""

    def __init__(self, client: AsyncClient, name: str, directory: Path | None) -> None:
        self._client = client
        self._name = name
        self._histograms = _Histograms(directory)

    async def judge(self, obs: NDArray[Any], state: Sequence[Any], thread: Executor) -> Judgement:
        """See `StagePolicy.judge`."""
        result = await self._client.act(self._name, obs, state, timeout_s=ACT_S)
        return Judgement(result.values[0], result.state)

    async def distributions(self, obs: NDArray[Any], thread: Executor) -> ReturnDistributions | None:
        """See `StagePolicy.distributions`."""
        return await self._histograms.compute(obs, thread)


class LocalPolicy:
    """Policy of a model directory on this machine, loaded when it is first asked."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._predictor: Predictor | None = None

    async def judge(self, obs: NDArray[Any], state: Sequence[Any], thread: Executor) -> Judgement:
        """See `StagePolicy.judge`. Raises ModelError for a directory that cannot be used."""
        return await asyncio.get_running_loop().run_in_executor(thread, self._judge, obs, tuple(state))

    async def distributions(self, obs: NDArray[Any], thread: Executor) -> ReturnDistributions | None:
        """Return None: a policy that is soon replaced shows its values alone."""
        return None

    def load(self) -> Mapping[str, Any]:
        """Load the model, and return its provenance. Raises ModelError for a directory that cannot be used."""
        import torch

        from torso.nets import Predictor

        torch.set_num_threads(1)  # the server, the browser and what trains have the rest
        self._predictor = Predictor.load(self._directory)
        return self._predictor.card.provenance

    def _judge(self, obs: NDArray[Any], state: tuple[Any, ...]) -> Judgement:
        if self._predictor is None:
            self.load()
        assert self._predictor is not None  # noqa: S101 - it has been loaded
        prepared = self._predictor.prepare(obs)
        values, after = self._predictor.step(prepared, self._predictor.prepare_state(state, len(prepared)))
        return Judgement(values[0], after)


class _Histograms:
    """Histograms of returns from a model directory; their bounds widen as the game goes on."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._network: Network | None = None
        self._bounds: tuple[float, float] | None = None
        self._has_none = directory is None

    async def compute(self, obs: NDArray[Any], thread: Executor) -> ReturnDistributions | None:
        if self._has_none:
            return None
        return await asyncio.get_running_loop().run_in_executor(thread, self._compute, obs)

    def _compute(self, obs: NDArray[Any]) -> ReturnDistributions | None:
        import torch

        from torso.insight.units.return_distributions import return_distributions

        if self._network is None:
            self._load()
        if self._network is None:
            return None
        tensor = torch.from_numpy(np.ascontiguousarray(obs))
        found = return_distributions(self._network, tensor)
        if found is None:
            return None
        low, high = self._bounds or (found.low, found.high)
        low, high = min(low, found.low), max(high, found.high)
        if (low, high) != (found.low, found.high):
            found = return_distributions(self._network, tensor, (low, high))
        self._bounds = (low, high)
        return found

    def _load(self) -> None:
        import torch

        from torso.nets import find_model, load_model
        from torso.nets.models.card import read_card
        from torso.nets.specs.heads import CategoricalHeadSpec, ImplicitQuantileHeadSpec, QuantileHeadSpec

        assert self._directory is not None  # noqa: S101 - compute has looked
        directory = find_model(self._directory)
        kinds = (CategoricalHeadSpec, QuantileHeadSpec, ImplicitQuantileHeadSpec)
        if not isinstance(read_card(directory).network.head, kinds):
            self._has_none = True
            return
        torch.set_num_threads(1)
        self._network = load_model(directory)[1]
