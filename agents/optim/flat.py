"""Flattened parameters: one tensor for a network, so that many small updates cost as much as one large update."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MAX_FLAT_PARAMETERS = 2**20  # of a network; gathering more gradients into one tensor costs more than separate updates


class FlatParameters(nn.Module):
    """One flat parameter that shares its memory with all trainable parameters of a network.

    Reading, loading and saving the network work as before; its parameters have become views, in order, of ``flat`` [n],
    contiguous ones whatever their memory format was. After a backward pass `gather_gradients` fills ``flat.grad``. The
    network must not move to another device, precision or memory format afterwards.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._parts = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.flat = nn.Parameter(torch.cat([part.detach().reshape(-1) for part in self._parts]))
        self.flat.grad = torch.zeros_like(self.flat)
        self._share_memory()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or a pickle, whose parameters have memory of their own until they share it again."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.flat.grad is None:  # a pickle keeps no gradients
            self.flat.grad = torch.zeros_like(self.flat)
        self._share_memory()

    def _share_memory(self) -> None:
        start = 0
        for part in self._parts:
            part.data = self.flat.data[start : start + part.numel()].view_as(part)
            start += part.numel()

    def gather_gradients(self) -> Tensor:
        """Copy the network's gradients into ``flat.grad`` and return that, [n]; absent ones count as 0."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parts]
        gathered = self.flat.grad
        assert gathered is not None  # noqa: S101 - made above, and nothing here sets it to None
        torch.cat([gradient.reshape(-1) for gradient in gradients], out=gathered)
        return gathered

    def share_gradients(self) -> list[Tensor]:
        """Make each parameter's gradient a view of ``flat.grad``, and return them, for who writes them in place."""
        gathered = self.flat.grad
        assert gathered is not None  # noqa: S101 - as above
        gradients = torch.split(gathered, [part.numel() for part in self._parts])
        for part, gradient in zip(self._parts, gradients, strict=True):
            part.grad = gradient.view(part.shape)
        return [part.grad for part in self._parts if part.grad is not None]
