"""Executors: how a minibatch's update runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, cast

import torch

from torso.agents.optim.graphs import GraphExecutor
from torso.agents.protocols import Executor
from torso.checks import choice
from torso.errors import ConfigError

B = TypeVar("B")
R = TypeVar("R")

EXECUTOR_SETTINGS = ("auto", "eager", "graph")
ExecutorName = Literal["eager", "graph"]


class EagerExecutor:
    """Executor that calls the update as it stands."""

    captures = False

    def prepare(self, call: Callable[[B], R], example: B, generators: Sequence[torch.Generator]) -> Callable[[B], R]:
        """Return ``call`` itself."""
        return call


def resolve_executor(setting: str, device: torch.device) -> ExecutorName:
    """Resolve the executor's name: ``auto`` captures graphs on CUDA, and calls updates as they stand elsewhere.

    Raises:
        ConfigError: an unknown setting, or graphs on a device that has none.
    """
    choice("executor", setting, EXECUTOR_SETTINGS)
    if setting == "auto":
        return "graph" if device.type == "cuda" else "eager"
    if setting == "graph" and device.type != "cuda":
        raise ConfigError(
            f"executor must be auto or eager on device {device}, since only CUDA has graphs, got 'graph'; leave it "
            "out, or give device cuda"
        )
    return cast(ExecutorName, setting)


def make_executor(name: ExecutorName, device: torch.device) -> Executor:
    """Build the executor of a resolved name, for one learner on a device."""
    return GraphExecutor(device) if name == "graph" else EagerExecutor()
