"""Load a model directory: verify the weights against the card, build the network, restore its tensors."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
from torso.nets.modules.memory_meter import MemoryMeter
from torso.nets.modules.network import Network, build_network
from torso.plain import shown

SMALL_BYTES = 1 << 20  # a file that is read whatever it holds: what is wrong with it is said later
MAX_HEADER_BYTES = 1 << 22  # 40,000 tensors
BUILD_BYTES = 1 << 28  # what a network may take beside its weights while it is built: tables, temporary results
BYTES_A_WEIGHT = 16  # and with them: its weights in up to float64, and as much for their initialisation
BUILD_TENSORS = 10_000  # that a network may have while it is built, beside four for each in the file
_READ_ATTEMPTS = 20  # a reader needs another only where a whole save falls between two of its reads


class _Described(NamedTuple):
    """Dtype, shape and kind of number of a tensor that a file holds."""

    dtype: str
    shape: tuple[int, ...]
    number_kind: str


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[ModelCard, Network]:
    """Load a model directory, or the model of a run directory, in evaluation mode.

    What a network takes is compared with what the weights file holds before its memory is allocated, which a damaged
    card could make vast; so is the file's size with its header's before it is read.

    Raises:
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
        ConfigError: a device that is not available.
    """
    directory = find_model(path)
    target_device = resolve_device(device)
    card, network = _read(directory)
    return card, network.to(target_device).eval()


def _read(directory: Path) -> tuple[ModelCard, Network]:
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


def _read_weights(directory: Path, card: ModelCard) -> Network:
    """Read the weights that a card names, of the two files that may hold them, into its network."""
    problem: ModelError = ModelNotFoundError(f"{directory / WEIGHTS} is missing")
    for name in (WEIGHTS, PREVIOUS_WEIGHTS):
        path = directory / name
        try:
            with open_regular(path) as file:
                network = _load_file(file, path, card)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelDamagedError(f"cannot read {path}: {error}") from error
        except ModelDamagedError as error:
            problem = error
            continue
        if network is not None:
            return network
        if not isinstance(problem, ModelDamagedError):
            problem = ModelDamagedError(
                f"{directory / WEIGHTS} is truncated or altered: its SHA-256 is not the one that {CARD} names"
            )
    raise problem


def _load_file(file: BinaryIO, path: Path, card: ModelCard) -> Network | None:
    """Build the card's network with a file's weights; None where they are not those that the card names.

    Raises OSError, and ModelDamagedError where they do not fit the network.
    """
    size, network = os.fstat(file.fileno()).st_size, None
    if size > SMALL_BYTES:
        described = _read_header(file, size)
        if described is None:
            return None
        network = _build(card, described, path)
        file.seek(0)
    data = file.read(size)
    if sha256_hex(data) != card.weights_sha256:
        return None
    try:
        state = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that torch lacks
        raise ModelDamagedError(f"{path} is not a safetensors file: {error}") from error
    if network is None:
        network = _build(card, {name: _described(tensor) for name, tensor in state.items()}, path)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelDamagedError(f"{path} does not fit the network in {CARD}: {error}") from error
    return network


def _read_header(file: BinaryIO, size: int) -> dict[str, _Described] | None:
    """Read what a safetensors file says of its tensors; None where its size is not what that explains."""
    header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > MAX_HEADER_BYTES:
        return None
    try:
        tensors = {name: value for name, value in json.loads(file.read(header_bytes)).items() if name != "__metadata__"}
        ends = [tensor["data_offsets"][1] for tensor in tensors.values()]
        if 8 + header_bytes + max(ends, default=0) != size:
            return None
        return {
            name: _Described(tensor["dtype"], tuple(map(int, tensor["shape"])), _header_number_kind(tensor["dtype"]))
            for name, tensor in tensors.items()
        }
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
        return None


def _header_number_kind(dtype: str) -> str:
    return {"F": "float", "B": "float" if dtype == "BF16" else "whole", "C": "complex"}.get(dtype[0], "whole")


def _described(tensor: Tensor) -> _Described:
    kind = "float" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "whole"
    return _Described(str(tensor.dtype), tuple(tensor.shape), kind)


def _build(card: ModelCard, found: Mapping[str, _Described], path: Path) -> Network:
    """Build the card's network in no more memory than the tensors of a file explain, and compare it with them."""
    limit = BUILD_BYTES + BYTES_A_WEIGHT * sum(math.prod(tensor.shape) for tensor in found.values())
    try:
        with MemoryMeter(limit, max_tensors=BUILD_TENSORS + 4 * len(found)):
            network = build_network(card.network, torch.Generator())  # a generator: the global one is not used
    except SpecError as error:
        raise ModelDamagedError(f"{path.with_name(CARD)} describes a network that cannot be built: {error}") from error
    except RuntimeError as error:
        raise ModelDamagedError(f"{path} does not fit the network in {CARD}, which cannot be built: {error}") from error
    expected = network.state_dict()
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ModelDamagedError(f"{path} does not fit {CARD}: missing {shown(missing)}, not expected {shown(extra)}")
    for name, tensor in expected.items():
        own, got = _described(tensor), found[name]
        if (own.shape, own.number_kind) != (got.shape, got.number_kind):
            raise ModelDamagedError(
                f"{path} does not fit {CARD}: {name} must be {own.dtype} {list(own.shape)}, "
                f"got {got.dtype} {list(got.shape)}"
            )
    return network


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Network:
    """Load only the network, a `torch.nn.Module`, of a model or run directory."""
    return load_model(path, device)[1]
