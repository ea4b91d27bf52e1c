"""Load a model directory: verify the weights against the card, build the network, restore its tensors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from torso.errors import (
    ModelDamagedError,
    ModelError,
    ModelNotFoundError,
    SpecError,
)
from torso.files import open_regular, sha256_hex
from torso.nets.models.card import CARD, WEIGHTS, ModelCard, read_card
from torso.nets.models.directory import PREVIOUS_WEIGHTS, find_model
from torso.nets.modules.devices import resolve_device
from torso.nets.modules.network import Network, build_network

SMALL_BYTES = 1 << 20  # a file that is read whatever it holds: what is wrong with it is said later
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_READ_ATTEMPTS = 20  # a reader needs another only where a whole save falls between two of its reads


def _read_weights(directory: Path, card: ModelCard) -> bytes:
    found = []
    for name in (WEIGHTS, PREVIOUS_WEIGHTS):
        try:
            data = _read_safetensors(directory / name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelDamagedError(f"cannot read {directory / name}: {error}") from error
        if data is not None and sha256_hex(data) == card.weights_sha256:
            return data
        found.append(name)
    if not found:
        raise ModelNotFoundError(f"{directory / WEIGHTS} is missing")
    raise ModelDamagedError(
        f"{directory / WEIGHTS} is truncated or altered: its SHA-256 is not the one that {CARD} names"
    )


def _read_safetensors(path: Path) -> bytes | None:
    """Read a safetensors file; None for a large one whose size is not what its header says. Raises OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= SMALL_BYTES:
            return file.read()
        start = file.read(8)
        header_bytes = int.from_bytes(start, "little")
        if header_bytes > MAX_HEADER_BYTES:
            return None
        header = file.read(header_bytes)
        try:
            tensors = [value for name, value in json.loads(header).items() if name != "__metadata__"]
            explained = 8 + header_bytes + max((tensor["data_offsets"][1] for tensor in tensors), default=0) == size
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return None
        return start + header + file.read() if explained else None


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[ModelCard, Network]:
    """Load a model directory, or the model of a run directory, in evaluation mode.

    Raises:
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
        ConfigError: a device that is not available.
    """
    directory = find_model(path)
    target_device = resolve_device(device)
    card, data = _read(directory)
    try:
        state = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that torch lacks
        raise ModelDamagedError(f"{directory / WEIGHTS} is not a safetensors file: {error}") from error
    try:
        _check_fit(card, state, directory)
        network = build_network(card.network, torch.Generator())  # a generator: the global one is not used
        network.load_state_dict(state, strict=True)
    except SpecError as error:
        raise ModelDamagedError(f"{directory / CARD} describes a network that cannot be built: {error}") from error
    except RuntimeError as error:
        raise ModelDamagedError(f"{directory / WEIGHTS} does not fit the network in {CARD}: {error}") from error
    return card, network.to(target_device).eval()


def _read(directory: Path) -> tuple[ModelCard, bytes]:
    """Read the card and the weights that it names, also while a trainer is saving over them."""
    seen = None
    for _ in range(_READ_ATTEMPTS):
        card = read_card(directory)
        try:
            return card, _read_weights(directory, card)
        except (ModelDamagedError, ModelNotFoundError):
            if card.weights_sha256 == seen:
                raise
            seen = card.weights_sha256
    raise ModelError(f"{directory} is saved over faster than it can be read")


def _check_fit(card: ModelCard, state: dict[str, Tensor], directory: Path) -> None:
    """Compare the tensors with the network's before its memory is allocated, which a damaged card could make vast."""
    try:
        with torch.device("meta"):
            expected = Network(card.network).state_dict()
    except RuntimeError:  # a registered torso that reads values while it is built; load_state_dict compares instead
        return
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise ModelDamagedError(f"{directory / WEIGHTS} does not fit {CARD}: missing {missing}, not expected {extra}")
    for name, tensor in expected.items():
        got = state[name]
        if got.shape != tensor.shape or _number_kind(got) != _number_kind(tensor):
            raise ModelDamagedError(
                f"{directory / WEIGHTS} does not fit {CARD}: {name} must be {tensor.dtype} {list(tensor.shape)}, "
                f"got {got.dtype} {list(got.shape)}"
            )


def _number_kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Network:
    """Load only the network, a `torch.nn.Module`, of a model or run directory."""
    return load_model(path, device)[1]
