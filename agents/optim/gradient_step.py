"""Gradient step of classifiers and agents: backward, clip, optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torso.agents.optim.devices import Precision
from torso.agents.optim.flat import FlatParameters
from torso.agents.optim.optimizers import take_step
from torso.agents.optim.states import optimizer_state, restore_optimizer
from torso.nets import Network, Prediction
from torso.nets.specs.registry import State
from torso.private_apis import torch_foreach

_FOREACH = torch_foreach()


class GradientStep:
    """One step down the gradient of a loss: backward, clip, optimizer.

    Nothing here synchronises with the device: the returned tensor is detached. ``flat`` are the network's parameters as
    one tensor, which the optimizer then steps; this is faster for a network of small layers.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float | None = None,
        flat: FlatParameters | None = None,
    ) -> None:
        self.flat = flat
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm

    def __call__(self, loss: Tensor) -> Tensor:
        """Take one step on ``loss``, a scalar computed from the network's parameters; returns it detached."""
        for parameter in self.parameters:  # as Optimizer.zero_grad(set_to_none=True), without its hooks
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        if self.flat is not None:
            self.flat.gather_gradients()
        self.descend()
        return loss.detach()

    def descend(self) -> None:
        """Take one step down the gradients that are there: of the flat parameters, or else of each."""
        if self.max_grad_norm is not None:
            parameters = self.parameters if self.flat is None else [self.flat.flat]
            _clip([each.grad for each in parameters if each.grad is not None], self.max_grad_norm)
        take_step(self.optimizer)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a captured graph reads it there
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the optimizer's state as JSON and tensors, for a checkpoint."""
        return optimizer_state(self.optimizer)

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Load a state that ``state`` returned; CheckpointError when it is of other parameters."""
        restore_optimizer(self.optimizer, state, tensors)


def _clip(gradients: list[Tensor], max_norm: float) -> None:
    """Clip gradients, in place, to a total norm of at most ``max_norm``, as ``clip_grad_norm_`` does.

    On the CPU, where reading the norm needs no synchronisation, gradients below the limit are not multiplied by 1.
    """
    norms = _FOREACH.norm(gradients)
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if norm.device.type == "cpu" and norm.item() + 1e-6 <= max_norm:
        return
    _FOREACH.mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))


def select_forward(network: Network, precision: Precision) -> Callable[..., tuple[Prediction, State]]:
    """Select the network's forward of a precision; both take ``(obs, state, generator)``."""
    return network.mixed if precision == "bfloat16" else network
