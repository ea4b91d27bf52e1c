"""Optimizers by name, over the trainable parameters of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from torso.agents.optim.flat import FlatParameters
from torso.errors import ConfigError
from torso.nets.modules.layers import weights_of
from torso.private_apis import torch_fused_adam

_FUSED_ADAM = torch_fused_adam()

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw", "radam")


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
    """Build an optimizer over the trainable parameters, in torch's fused form where CPUs and GPUs both have one.

    Parameters on another device, such as ``meta``, get torch's unfused form; they are there before this is called.

    sgd: down the gradient. momentum: Polyak 1964; nesterov: Nesterov 1983, as Sutskever et al. 2013 write it; both
    keep the share ``momentum`` of the last step's velocity, and the learning rate scales the velocity. adagrad: Duchi
    et al. 2011. adadelta: Zeiler 2012; rmsprop: Hinton 2012; both forget squares by ``rho``. adam: Kingma & Ba 2015,
    whose ``betas`` these are. adamw: Adam with a decoupled ``weight_decay`` (Loshchilov & Hutter 2019), which spares
    biases and norms and is AdamW's alone. radam: Adam whose rate grows as its estimates settle (Liu et al. 2020).
    ``eps`` None is 1e-10 for adagrad, 1e-6 for adadelta, else 1e-8.
    Settings of other optimizers are ignored.

    capturable: whether a CUDA graph may capture the steps of adam, adamw or radam: on CUDA their step counts and their
    learning rate are then float32 tensors there. RAdam's steps are then up to 0.6% off at first, by rounding, and 0.1%
    after twenty.

    Raises:
        ConfigError: an unknown name, a setting out of its range, weight decay without adamw, nothing that learns.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    _check_ranges(name, learning_rate, momentum, betas, rho, eps, weight_decay)
    if weight_decay and name != "adamw":
        raise ConfigError(
            f"weight_decay must be 0 unless the optimizer is adamw, got {weight_decay} with {name}; use adamw, or add "
            f"the penalty l2={weight_decay} to the loss"
        )
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not learning:
        raise ConfigError("the network must have a trainable parameter, got only frozen ones; unfreeze some of it")
    optim, eps = torch.optim, _EPS.get(name, 1e-8) if eps is None else eps
    fused = all(parameter.device.type in _FUSED for parameter in learning)
    if name == "sgd":
        return optim.SGD(learning, lr=learning_rate, fused=fused)
    if name in ("momentum", "nesterov"):
        return optim.SGD(learning, lr=learning_rate, momentum=momentum, nesterov=name == "nesterov", fused=fused)
    if name == "adagrad":
        return optim.Adagrad(learning, lr=learning_rate, eps=eps, foreach=True)
    if name == "adadelta":
        return optim.Adadelta(learning, lr=learning_rate, rho=rho, eps=eps, foreach=True)
    if name == "rmsprop":
        return optim.RMSprop(learning, lr=learning_rate, alpha=rho, eps=eps, foreach=True)
    settings: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": eps}
    if capturable and learning[0].device.type == "cuda":
        settings["lr"] = torch.tensor(learning_rate, dtype=torch.float32, device=learning[0].device)
        settings["capturable"] = True
    if name == "adam":
        return optim.Adam(learning, **settings, fused=fused)
    if name == "radam":
        return optim.RAdam(learning, **settings, foreach=True)
    return optim.AdamW(_parameter_groups(network, learning, weight_decay), **settings, fused=fused)


def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Take an optimizer's step; that of a fused Adam, and of RAdam on the CPU, is the kernel of fused Adam alone.

    Adam's bits are those of ``Adam.step``: what that does around its kernel, such as grouping tensors by device, costs
    a small network as much again. RAdam is Adam at a rate of its own in each step (Liu et al. 2020, algorithm 2), equal
    to ``RAdam.step`` up to rounding, whose many passes over the weights take several times as long.
    """
    group, *others = optimizer.param_groups
    parameters = group["params"]
    states = [state for each in parameters if each.grad is not None and (state := optimizer.state.get(each))]
    has_all = not others and len(states) == len(parameters)
    terms = _kernel_terms(optimizer, group, states) if has_all else None
    if terms is None:
        optimizer.step()  # the first step makes the state
        return
    learning_rate, eps = terms
    steps = [state["step"] for state in states]
    for step in steps:
        step += 1
    with torch.no_grad():
        _FUSED_ADAM(
            parameters,
            [parameter.grad for parameter in parameters],
            *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
            [],
            steps,
            lr=learning_rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=eps,
            amsgrad=False,
            maximize=group["maximize"],
        )


def _kernel_terms(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], states: Sequence[dict[str, Any]]
) -> tuple[float, float] | None:
    """Learning rate and eps with which fused Adam's kernel takes the optimizer's step; None where it cannot."""
    if group.get("decoupled_weight_decay"):
        return None
    if type(optimizer) is torch.optim.Adam:
        return (group["lr"], group["eps"]) if group["fused"] and not group["amsgrad"] else None
    if type(optimizer) is not torch.optim.RAdam or group["capturable"] or group["params"][0].device.type != "cpu":
        return None
    first, *more = (state["step"].item() for state in states)
    if any(step != first for step in more):
        return None
    beta2, step = group["betas"][1], first + 1
    left = 1 - beta2**step
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / left  # gradients that the average of squares is worth
    if length <= 5:  # too few to divide by it
        return None
    share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return group["lr"] * math.sqrt(share), group["eps"] / math.sqrt(left)  # torch adds eps before the correction


_FUSED = ("cpu", "cuda")  # devices that torso computes on; torch's fused optimizers refuse some of the others
_EPS = {"adagrad": 1e-10, "adadelta": 1e-6}  # Zeiler 2012 for adadelta; the others are PyTorch's


def _parameter_groups(
    network: nn.Module, learning: Sequence[nn.Parameter], weight_decay: float
) -> list[dict[str, Any]]:
    """Build an optimizer's parameter groups: weights, which decay, and biases and norms, which do not."""
    if weight_decay and isinstance(network, FlatParameters):
        raise ConfigError(
            f"weight_decay must be 0 for flat parameters, which mix weights with the biases it spares, got "
            f"{weight_decay}; pass the network"
        )
    decaying = {id(weight) for weight in weights_of(network)}
    weights = {"params": [p for p in learning if id(p) in decaying], "weight_decay": weight_decay}
    others = {"params": [p for p in learning if id(p) not in decaying], "weight_decay": 0.0}
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
