"""Inference backends: the interface, and the backend that runs the network in torch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from torso.arrays import Array
from torso.nets.modules.network import Network


class Backend(Protocol):
    """Interface of an inference backend: it computes a model's forward on arrays; the predictor does the rest."""

    name: str

    def run(self, inputs: Array) -> NDArray[np.float32]:
        """Run the model on [B, *shape] in its dtype, contiguous, B at least 1; returns the readout, [B, K] float32."""
        ...


@runtime_checkable
class ProbabilitiesBackend(Backend, Protocol):
    """Interface of a backend that also computes a classifier's probabilities, where they are the readout's softmax."""

    def probabilities(self, inputs: Array) -> NDArray[np.float32]:
        """Run the model as `run` does; returns `Predictor.probabilities` of the readout, [B, K] float32."""
        ...


class TorchBackend:
    """Inference backend that runs the network in torch, on any device."""

    name = "torch"

    def __init__(self, network: Network, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()

    @torch.inference_mode()
    def run(self, inputs: Array) -> NDArray[np.float32]:
        """Run the network on [B, *shape] in the model's dtype; returns [B, K] float32."""
        if not inputs.flags.writeable:  # torch warns of memory that it could write to
            inputs = inputs.copy()
        readout = self.network.readout(torch.from_numpy(inputs).to(self.device))
        result: NDArray[np.float32] = readout.cpu().numpy()
        return result
