"""Serialise optimizer and random generator state to JSON and tensors for a checkpoint, and restore it exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torso.agents.protocols import Stateful
from torso.errors import CheckpointError


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Prefix every tensor's name as ``prefix/name``, so that several state dicts share one file."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Select the tensors named ``prefix/name`` and remove the prefix; empty when there is none."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def state_of_parts(parts: Mapping[str, Stateful]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the state of named parts: JSON by name, and their tensors, named ``part/name``."""
    states: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, part in parts.items():
        states[name], own = part.state()
        tensors |= with_prefix(name, own)
    return states, tensors


def restore_parts(
    parts: Mapping[str, Stateful], states: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Load, in the order of ``parts``, what `state_of_parts` returned; CheckpointError when it is of other parts."""
    try:
        for name, part in parts.items():
            part.restore(states[name], strip_prefix(name, tensors))
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks {error}; it is of another version or another kind") from error
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error


def where_rows(chosen: NDArray[np.bool_], first: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Select ``first`` in the chosen rows, bool [B], and ``other`` elsewhere; [B, ...] each."""
    mask = torch.from_numpy(chosen).to(other.device).reshape(-1, *(1,) * (other.dim() - 1))
    return torch.where(mask, first, other)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Split an optimizer's state into JSON and tensors.

    Returns the JSON part (``groups``: the settings of each parameter group; ``state``: all but tensors) and the
    tensors, named ``<parameter index>/<state name>`` and, for settings held as tensors, ``group/<index>/<name>``.
    """
    state_dict = optimizer.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    groups = [
        _split_tensors(group, f"group/{index}", tensors) for index, group in enumerate(state_dict["param_groups"])
    ]
    values = {str(index): _split_tensors(state, str(index), tensors) for index, state in state_dict["state"].items()}
    return {"groups": groups, "state": values}, tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Load into an optimizer over the same parameters a state that ``optimizer_state`` returned.

    The optimizer stays capturable or not, and a learning rate that is a tensor stays where it is in memory.

    Raises CheckpointError when the state is of other parameters.
    """
    current = optimizer.state_dict()["param_groups"]
    groups = [{**group, **strip_prefix(f"group/{index}", tensors)} for index, group in enumerate(state["groups"])]
    if [len(group["params"]) for group in groups] != [len(group["params"]) for group in current]:
        raise CheckpointError("the checkpoint's optimizer is of other parameters than this network's")
    for group, now in zip(groups, current, strict=True):
        # JSON has no tuples: Adam's betas are lists after a round trip.
        group.update({name: tuple(group[name]) for name in group if isinstance(now.get(name), tuple)})
        group.update({name: now[name] for name in ("capturable",) if name in now})
    rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = {
        int(index): {
            **numbers,
            **{
                name: _copy_with_strides(parameters[int(index)], tensor)
                for name, tensor in strip_prefix(index, tensors).items()
            },
        }
        for index, numbers in state["state"].items()
    }
    try:
        optimizer.load_state_dict({"param_groups": groups, "state": values})
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"the checkpoint's optimizer does not fit: {error}") from error
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, torch.Tensor):
            group["lr"] = rate.fill_(float(group["lr"]))
        elif isinstance(group["lr"], torch.Tensor):
            group["lr"] = float(group["lr"])


def numpy_generator_state(rng: np.random.Generator) -> dict[str, Any]:
    """Return a NumPy generator's state as JSON: PCG64's are (large) integers, others' arrays become lists."""
    state: dict[str, Any] = _arrays_to_lists(rng.bit_generator.state)
    return state


def restore_numpy_generator(rng: np.random.Generator, state: Mapping[str, Any]) -> None:
    """Restore a NumPy generator, of the same kind, to a state that ``numpy_generator_state`` returned."""
    kind = type(rng.bit_generator).__name__
    if state.get("bit_generator") != kind:
        raise CheckpointError(f"the checkpoint's generator must be {kind}, got {state.get('bit_generator')}")
    rng.bit_generator.state = _lists_to_arrays(dict(state))


def _copy_with_strides(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor; one of the parameter's shape gets its strides too, which fused optimizers require."""
    if tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def _split_tensors(values: Mapping[str, Any], prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Move the tensors among the values to ``tensors`` as ``prefix/name`` and return the rest."""
    tensors.update({f"{prefix}/{name}": value for name, value in values.items() if isinstance(value, torch.Tensor)})
    return {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}


def _arrays_to_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _arrays_to_lists(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _lists_to_arrays(value: Any) -> Any:
    if isinstance(value, Mapping) and set(value) == {"array", "dtype"}:
        return np.asarray(value["array"], dtype=value["dtype"])
    return {name: _lists_to_arrays(item) for name, item in value.items()} if isinstance(value, Mapping) else value
