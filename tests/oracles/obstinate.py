"""Faulty torso for tests of worker processes: it blocks on demand, or kills the worker that loads it.

Workers import it as a user's module (``import_modules``). The folder that the environment variable OBSTINATE names is
shared between them and the test.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torso.nets import InputSpec, NetworkSpec, ScalarHeadSpec, build_network, register_torso, save_model

WAITS = 7.0  # a batch with a row that begins so makes ``entered-PID``, and waits for ``released``; so does building,
# there ``building-PID``, while there is ``hold``
FOLDER = "OBSTINATE"


@dataclass(frozen=True, kw_only=True)
class ObstinateSpec:
    """Specification of the faulty torso. ``deadly``: building it kills a worker."""

    width: int = 8
    deadly: bool = False


class Obstinate(nn.Module):
    """Linear layer that blocks or kills its process as the specification says."""

    def __init__(self, spec: ObstinateSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        if spec.deadly and Path(sys.argv[0]).name == "worker.py":
            os.kill(os.getpid(), signal.SIGKILL)
        if FOLDER in os.environ and (Path(os.environ[FOLDER]) / "hold").exists():
            _wait("building")
        self.layer = nn.Linear(math.prod(input_shape), spec.width)
        self.num_features = spec.width

    def forward(self, inputs: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        """Compute features; block while a row begins with ``WAITS`` and ``released`` does not exist."""
        time.sleep(0.001)  # what is computed quickly is computed on the event loop, which must not wait
        if bool((inputs[:, 0] == WAITS).any()) and FOLDER in os.environ:
            _wait("entered")
        return self.layer(inputs).relu(), state


def _wait(what: str) -> None:
    folder = Path(os.environ[FOLDER])
    (folder / f"{what}-{os.getpid()}").touch()
    while not (folder / "released").exists():
        time.sleep(0.01)


register_torso("obstinate", ObstinateSpec, Obstinate)


def publish(directory: Path, seed: int = 0, *, deadly: bool = False) -> Path:
    """Save a policy on four floats, with two actions."""
    spec = NetworkSpec(
        input=InputSpec(shape=(4,)), torso=ObstinateSpec(deadly=deadly), head=ScalarHeadSpec(num_actions=2)
    )
    network = build_network(spec, torch.Generator().manual_seed(seed))
    return save_model(directory, network, kind="policy", provenance={}, onnx=False)
