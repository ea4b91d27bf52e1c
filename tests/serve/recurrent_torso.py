"""Recurrent torso for tests of serving: an LSTM cell that counts its steps. Workers import it as a user's module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torso.nets import (
    InputSpec,
    LogitsHeadSpec,
    NetworkSpec,
    ScalarHeadSpec,
    build_network,
    load_model,
    register_torso,
    save_model,
)

WIDTH = 8
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class CountingCellSpec:
    """Specification. ``strange``: it computes what ONNX cannot express."""

    width: int = WIDTH
    strange: bool = False


class CountingCell(nn.Module):
    """LSTM cell whose features grow with the steps of the episode. State: float32 [B, W] twice, and int64 [B]."""

    def __init__(self, spec: CountingCellSpec, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(input_shape[0], spec.width)
        self.num_features = spec.width
        self.strange = spec.strange

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Return zeros, the first two in one tensor."""
        zeros = self.cell.weight_hh.new_zeros(batch_size, self.num_features)
        return zeros, zeros, torch.zeros(batch_size, dtype=torch.int64)

    def forward(self, inputs: Tensor, state: Any, generator: Any) -> tuple[Tensor, Any]:
        """Compute features [B, W] and the next state."""
        hidden, cell, steps = state
        if self.strange:
            inputs = torch.special.bessel_j0(inputs)
        hidden, cell = self.cell(inputs, (hidden, cell))
        return hidden + 0.1 * steps[:, None], (hidden, cell, steps + 1)


register_torso("counting-lstm-cell", CountingCellSpec, CountingCell)


def save_recurrent(directory: Path, *, kind: str = "policy", seed: int = 0, onnx: bool = True, **settings: Any) -> Path:
    """Save a recurrent model on 4 floats, with 3 outputs."""
    head: Any = ScalarHeadSpec(num_actions=3) if kind == "policy" else LogitsHeadSpec(num_classes=3)
    spec = NetworkSpec(input=InputSpec(shape=(4,)), torso=CountingCellSpec(**settings), head=head)
    network = build_network(spec, torch.Generator().manual_seed(seed))
    start = 5 if kind == "policy" else 0
    return save_model(directory, network, kind=kind, action_start=start, onnx=onnx)  # type: ignore[arg-type]


def unrolled(directory: Path, obs: Array) -> tuple[list[Array], list[tuple[Array, ...]]]:
    """Return the values, [B, 3], and next states of the bare network for each of obs, [T, B, 4]."""
    _, network = load_model(directory)
    state = network.initial_state(obs.shape[1])
    values, states = [], []
    with torch.no_grad():
        for step in obs:
            prediction, state = network(torch.from_numpy(step), state)
            values.append(network.head.readout(prediction).numpy())
            states.append(tuple(part.numpy() for part in state))
    return values, states
