"""Weights of a network as bytes: the content of a model directory's safetensors file."""

from __future__ import annotations

import safetensors.torch
import torch

from torso.nets.modules.network import Network


def weights_bytes(network: Network) -> bytes:
    """Serialise a network's weights as a model directory holds them."""
    # Copies, since the parameters of a network in training may be views of one tensor.
    tensors = network.state_dict().items()
    state = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors}
    return safetensors.torch.save(state)
