"""The one gradient step that classifiers and agents share, and what it needs: optimizer, precision, device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from torso.agents.flat import FlatParameters
from torso.agents.states import optimizer_state, restore_optimizer
from torso.errors import ConfigError
from torso.nets import Network, Prediction
from torso.nets.specs.registry import State

Precision = Literal["float32", "bfloat16"]
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "one-cycle")


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
            gradients = [self.flat.gather_gradients()]
        else:
            gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if self.max_grad_norm is not None:
            _clip(gradients, self.max_grad_norm)
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


def _clip(gradients: list[Tensor], max_norm: float) -> None:
    """Scale gradients, in place, to a total norm of at most ``max_norm``: what ``clip_grad_norm_`` computes.

    On the CPU, which need not be waited for, gradients that are short enough are not multiplied by 1.
    """
    norms = torch._foreach_norm(gradients)
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    if scale.device.type == "cpu" and scale == 1.0:
        return
    torch._foreach_mul_(gradients, scale)


def forward_in(network: Network, precision: Precision) -> Callable[..., tuple[Prediction, State]]:
    """The network's forward in a precision; both take ``(obs, state, generator)``."""
    return network.mixed if precision == "bfloat16" else network


def make_optimizer(
    network: nn.Module,
    name: str = "adam",
    *,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    rho: float = 0.9,
    eps: float | None = None,
    weight_decay: float = 0.0,
    capturable: bool = False,
) -> torch.optim.Optimizer:
    """Build an optimizer over the parameters that learn, in torch's fused form where CPUs and GPUs both have one.

    sgd: down the gradient. momentum: Polyak 1964; nesterov: Nesterov 1983, as Sutskever et al. 2013 write it; both
    keep the share ``momentum`` of the last step's velocity, and the learning rate scales the velocity. adagrad: Duchi
    et al. 2011. adadelta: Zeiler 2012; rmsprop: Hinton 2012; both forget squares by ``rho``. adam: Kingma & Ba 2015,
    whose ``betas`` these are. adamw: Adam with a decoupled ``weight_decay`` (Loshchilov & Hutter 2019), which spares
    biases and norms and is AdamW's alone. ``eps`` None is 1e-10 for adagrad, 1e-6 for adadelta, else 1e-8.
    What the named optimizer has no use for is not read. ``capturable`` keeps step counts on a GPU, for CUDA graphs.

    Raises:
        ConfigError: an unknown name, a setting out of its range, weight decay without adamw, nothing that learns.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    _check_ranges(name, learning_rate, momentum, betas, rho, eps, weight_decay)
    if weight_decay and name != "adamw":
        raise ConfigError(
            f"weight_decay is adamw's, got {weight_decay} with {name}; use adamw, or add the penalty l2={weight_decay} "
            "to the loss"
        )
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not learning:
        raise ConfigError("no parameter of the network learns; leave some of it unfrozen")
    optim, eps = torch.optim, _EPS.get(name, 1e-8) if eps is None else eps
    if name == "sgd":
        return optim.SGD(learning, lr=learning_rate, fused=True)
    if name in ("momentum", "nesterov"):
        return optim.SGD(learning, lr=learning_rate, momentum=momentum, nesterov=name == "nesterov", fused=True)
    if name == "adagrad":
        if capturable:
            raise ConfigError("adagrad cannot be captured in a CUDA graph, its step count lives on the CPU; use adam")
        return optim.Adagrad(learning, lr=learning_rate, eps=eps, foreach=True)
    if name == "adadelta":
        return optim.Adadelta(learning, lr=learning_rate, rho=rho, eps=eps, foreach=True, capturable=capturable)
    if name == "rmsprop":
        return optim.RMSprop(learning, lr=learning_rate, alpha=rho, eps=eps, foreach=True, capturable=capturable)
    if name == "adam":
        return optim.Adam(learning, lr=learning_rate, betas=betas, eps=eps, fused=True, capturable=capturable)
    groups = _decaying_and_not(network, learning, weight_decay)
    return optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=True, capturable=capturable)


_EPS = {"adagrad": 1e-10, "adadelta": 1e-6}  # Zeiler 2012 for adadelta; the others are PyTorch's


def _decaying_and_not(
    network: nn.Module, learning: Sequence[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Weights, which decay, and biases and norms, which do not, as an optimizer's groups."""
    if weight_decay and isinstance(network, FlatParameters):
        raise ConfigError("weight decay spares biases, which flat parameters hide among the weights; pass the network")
    weights = {"params": [p for p in learning if p.dim() > 1], "weight_decay": weight_decay}
    others = {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0}
    return [group for group in (weights, others) if group["params"]]


def _check_ranges(
    name: str,
    learning_rate: float,
    momentum: float,
    betas: tuple[float, float],
    rho: float,
    eps: float | None,
    weight_decay: float,
) -> None:
    if not 0 < learning_rate < math.inf:
        raise ConfigError(f"learning_rate must be positive and finite, got {learning_rate}")
    if name in ("momentum", "nesterov") and not 0 < momentum < 1:
        raise ConfigError(f"momentum must lie in (0, 1), got {momentum}; without momentum it is sgd")
    if not all(0 <= beta < 1 for beta in (*betas, rho)):
        raise ConfigError(f"betas and rho must lie in [0, 1), got {betas} and {rho}")
    if eps is not None and not 0 < eps < math.inf:
        raise ConfigError(f"eps must be positive and finite, got {eps}")
    if not 0 <= weight_decay < math.inf:
        raise ConfigError(f"weight_decay must be at least 0 and finite, got {weight_decay}")


def scheduled_learning_rate(schedule: str, peak: float, step: int, total_steps: int) -> float:
    """Return the learning rate of step ``step`` (from 0) out of ``total_steps``.

    constant; step (He et al. 2016): a tenth of the peak from half of the steps on, a hundredth from three quarters on;
    cosine (Loshchilov & Hutter 2017): from the peak down to 0; one-cycle (Smith & Topin 2018, with cosine flanks): up
    from peak/25 over the first three tenths, then down to 0.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    done = min(step / max(total_steps, 1), 1.0)
    rise = 0.3
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * (1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01)
    if schedule == "one-cycle" and done < rise:
        return peak * (1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * done / rise)))
    if schedule == "one-cycle":
        done = (done - rise) / (1 - rise)
    return peak * 0.5 * (1 + math.cos(math.pi * done))


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
