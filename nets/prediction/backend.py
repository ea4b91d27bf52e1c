"""Inference backends: the interface, and the backend that runs the network in torch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torso.arrays import Array, ArrayState
from torso.nets.modules.network import Network
from torso.nets.specs.registry import State

Outputs = tuple[NDArray[np.float32], *tuple[Array, ...]]
"""Readout, [B, K] float32, and behind it the tensors of a recurrent model's next state, [B, ...] each."""


class Backend(Protocol):
    """Interface of an inference backend: it computes a model's forward on arrays; the predictor does the rest.

    The backend of a recurrent model also has an attribute ``initial_state``: the state at an episode's start, one row
    of each tensor, [1, ...]. Other backends may have an empty one, or none.
    """

    name: str

    def run(self, inputs: Array, *state: Array) -> Outputs:
        """Run the model on [B, *shape] in its dtype, contiguous, B at least 1, and on its state, [B, ...] each.

        A recurrent model takes all tensors of its state, other models none.
        """
        ...


@runtime_checkable
class ProbabilitiesBackend(Backend, Protocol):
    """Interface of a backend that also computes a classifier's probabilities, where they are the readout's softmax.

    No recurrent model has one.
    """

    def probabilities(self, inputs: Array) -> NDArray[np.float32]:
        """Run the model as `run` does; returns `Predictor.probabilities` of the readout, [B, K] float32."""
        ...


class TorchBackend:
    """Inference backend that runs the network in torch, on any device."""

    name = "torch"

    def __init__(self, network: Network, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()

    @property
    def initial_state(self) -> ArrayState:
        """State of a recurrent network at an episode's start, [1, ...] each; () for others."""
        return as_arrays(self.network.initial_state(1))

    @torch.inference_mode()
    def run(self, inputs: Array, *state: Array) -> Outputs:
        """Run the network on [B, *shape] in the model's dtype, and on its state; returns readout and next state."""
        readout, next_state = self.network.step(self._tensor(inputs), tuple(map(self._tensor, state)))
        return readout.cpu().numpy(), *as_arrays(next_state)

    def _tensor(self, array: Array) -> Tensor:
        if not array.flags.writeable:  # torch warns of memory that it could write to
            array = array.copy()
        return torch.from_numpy(array).to(self.device)


def as_arrays(state: State) -> ArrayState:
    """Convert a recurrent state's tensors, on any device, to arrays."""
    return tuple(part.detach().cpu().numpy() for part in state)
