"""Inference backends: the interface, and the one that runs the network in torch."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from torso.arrays import Array
from torso.nets.modules.network import Network


class Backend(Protocol):
    """Arrays in, arrays out: what computes a model. Everything around it is the predictor's."""

    name: str

    def run(self, inputs: Array) -> NDArray[np.float32]:
        """[B, *shape] in the model's dtype, contiguous, B at least 1; returns the readout, [B, K] float32."""
        ...


@runtime_checkable
class ProbabilitiesBackend(Backend, Protocol):
    """A classifier's backend that computes the probabilities, too, of a model whose readout's softmax they are."""

    def probabilities(self, inputs: Array) -> NDArray[np.float32]:
        """As `run`; returns `Predictor.probabilities` of the readout, [B, K] float32."""
        ...


class TorchBackend:
    """The network itself, on any device."""

    name = "torch"

    def __init__(self, network: Network, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()

    @torch.inference_mode()
    def run(self, inputs: Array) -> NDArray[np.float32]:
        """[B, *shape] in the model's dtype; returns [B, K] float32."""
        if not inputs.flags.writeable:  # torch warns of memory that it could write to
            inputs = inputs.copy()
        readout = self.network.readout(torch.from_numpy(inputs).to(self.device))
        result: NDArray[np.float32] = readout.cpu().numpy()
        return result
