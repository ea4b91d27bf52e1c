"""The one gradient step that classifiers and agents share, and what it needs: optimizer, precision, device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from torso.agents.flat import FlatParameters
from torso.agents.states import optimizer_state, restore_optimizer
from torso.errors import ConfigError
from torso.nets import Network, Prediction
from torso.nets.registry import State

Precision = Literal["float32", "bfloat16"]
OPTIMIZERS = ("adam",)
SCHEDULES = ("constant", "cosine", "one-cycle")


class GradientStep:
    """One step down the gradient of a loss: backward, clip, optimizer.

    Nothing here waits for the device: what it returns is a tensor, detached. ``flat`` are the network's parameters as
    one, which the optimizer then steps; a network of small layers steps faster so.
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
        """Take one step on ``loss``, a scalar that the network's parameters gave; returns it detached."""
        for parameter in self.parameters:  # what Optimizer.zero_grad(set_to_none=True) does, without its hooks
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        if self.flat is not None:
            gradient = self.flat.gather_gradients()
            if self.max_grad_norm is not None:  # what clip_grad_norm_ computes
                gradient.mul_((self.max_grad_norm / (gradient.norm() + 1e-6)).clamp(max=1.0))
        elif self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm, foreach=True)
        self.optimizer.step()
        return loss.detach()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Take the optimizer's state as JSON and tensors, for a checkpoint."""
        return optimizer_state(self.optimizer)

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` took; CheckpointError when it is of other parameters."""
        restore_optimizer(self.optimizer, state, tensors)


def forward_in(network: Network, precision: Precision) -> Callable[..., tuple[Prediction, State]]:
    """The network's forward in a precision; both take ``(obs, state, generator)``."""
    return network.mixed if precision == "bfloat16" else network


def make_optimizer(
    network: nn.Module,
    name: str = "adam",
    *,
    learning_rate: float = 1e-3,
    eps: float = 1e-8,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    capturable: bool = False,
) -> torch.optim.Optimizer:
    """Build an optimizer over the parameters that learn, in torch's fused form.

    adam: Kingma & Ba 2015, whose defaults these are; with ``weight_decay`` it is decoupled (AdamW, Loshchilov & Hutter
    2019) and spares biases and norms. ``capturable`` keeps step counts on a GPU, for CUDA graphs.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learning if parameter.dim() > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in learning if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    parameters = [group for group in groups if group["params"]] if weight_decay else learning
    return kind(
        parameters, lr=learning_rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True, capturable=capturable
    )


def scheduled_learning_rate(schedule: str, peak: float, step: int, total_steps: int) -> float:
    """Return the learning rate of step ``step`` (from 0) out of ``total_steps``.

    constant; cosine (Loshchilov & Hutter 2017): from the peak down to 0; one-cycle (Smith & Topin 2018, with cosine
    flanks): up from peak/25 over the first three tenths, then down to 0.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    done = min(step / max(total_steps, 1), 1.0)
    rise = 0.3
    if schedule == "constant":
        return peak
    if schedule == "one-cycle" and done < rise:
        return peak * (1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * done / rise)))
    if schedule == "one-cycle":
        done = (done - rise) / (1 - rise)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


def resolve_device(device: str = "auto") -> torch.device:
    """Choose the device: ``auto`` is CUDA where there is one, else the CPU; ConfigError for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {device!r}")
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise ConfigError(f"device {device!r} is not there: {torch.cuda.device_count()} CUDA devices; use device='cpu'")
    return chosen


def resolve_precision(precision: str, device: torch.device, *, pays: bool) -> Precision:
    """Choose the precision of forward and backward; weights and optimizer stay float32.

    ``auto`` takes bfloat16 where it ``pays`` (large products: convolutions, wide layers) and the hardware multiplies
    it; small layers lose more to the casts than they gain.
    """
    if precision in ("float32", "bfloat16"):
        return cast(Precision, precision)
    if precision != "auto":
        raise ConfigError(f"precision must be float32, bfloat16 or auto, got {precision!r}")
    if not pays:
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if _cpu_multiplies_bfloat16() else "float32"


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Torch's intra-op threads for a while: a run's bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_multiplies_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
