"""The model directory: the only thing that passes from training to serving.

``weights.safetensors`` holds the tensors, ``model.json`` the rest and the SHA-256 of the weights; it is renamed in
last and is the commit point. While a model is saved over an older one, the older weights stay beside the new ones as
``weights.previous.safetensors``, so that at every moment the two files that belong together are both there.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from torso.errors import (
    ConfigError,
    ModelDamagedError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    SpecError,
    StorageError,
)
from torso.files import atomic_write_bytes, json_bytes, make_directory, remove_leftovers, sha256_hex
from torso.nets.calibration import Calibration
from torso.nets.card import CARD, WEIGHTS, Label, ModelCard, as_labels, read_card
from torso.nets.network import Network, build_network
from torso.nets.registry import ModelKind

PREVIOUS_WEIGHTS = "weights.previous.safetensors"
__all__ = ["CARD", "PREVIOUS_WEIGHTS", "WEIGHTS", "find_model", "load", "load_model", "save_model"]

_READ_ATTEMPTS = 20  # a reader needs another only where a whole save fell between two of its reads


def save_model(
    directory: str | os.PathLike[str],
    network: Network,
    *,
    kind: ModelKind,
    labels: Iterable[Label] | None = None,
    action_start: int = 0,
    calibration: Calibration | None = None,
    provenance: dict[str, Any] | None = None,
    onnx: bool = True,
) -> Path:
    """Save a network as a model directory, atomically, over an older one if there is one.

    ``onnx=True`` also exports ``model.onnx`` (seconds); frequent saves during training leave it out, and a stale one is
    ignored by every reader.

    Raises:
        SpecError: a kind, labels or calibration that do not fit the head, or a provenance that JSON cannot hold.
        StorageError: the directory could not be written; an older model in it is as it was.
        ModelError: ONNX cannot express the network; the model itself is saved.
    """
    # Copies, since the parameters of a network in training may be views of one tensor.
    tensors = network.state_dict().items()
    state = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors}
    weights = safetensors.torch.save(state)
    card = ModelCard(
        kind=kind,
        network=network.spec,
        weights_sha256=sha256_hex(weights),
        labels=None if labels is None else as_labels(labels),
        action_start=action_start,
        calibration=calibration,
        provenance={} if provenance is None else provenance,
    )
    data = json_bytes(card.to_json())  # all that can be refused has been by now; from here on it is files
    target = make_directory(directory)
    tidy(target)
    try:
        _keep_previous(target)
        atomic_write_bytes(target / WEIGHTS, weights)
        atomic_write_bytes(target / CARD, data)
    except StorageError:
        _put_back(target)
        raise
    with contextlib.suppress(OSError):  # a leftover is harmless, and the next save replaces it
        (target / PREVIOUS_WEIGHTS).unlink(missing_ok=True)
    if onnx:
        from torso.nets.export import export_onnx  # seconds to import, and only this call needs it

        export_onnx(target)
    return target


def tidy(directory: Path) -> None:
    """Remove the temporary files that killed saves left in a model directory."""
    for name in (WEIGHTS, PREVIOUS_WEIGHTS, CARD):
        remove_leftovers(directory / name)


def _keep_previous(directory: Path) -> None:
    """Put the weights that model.json names beside the place where new ones are about to land."""
    try:
        named = read_card(directory).weights_sha256
        data = (directory / WEIGHTS).read_bytes()
    except (OSError, ModelError):
        return  # there is none, or what is there does not load anyway
    if sha256_hex(data) == named:  # otherwise an interrupted save left them, and the previous ones still stand
        atomic_write_bytes(directory / PREVIOUS_WEIGHTS, data)


def _put_back(directory: Path) -> None:
    """After a write that failed: the weights that model.json names in their place, and nothing beside them."""
    weights, previous = directory / WEIGHTS, directory / PREVIOUS_WEIGHTS
    with contextlib.suppress(OSError, ModelDamagedError, ModelFormatError):
        try:
            named = read_card(directory).weights_sha256
        except ModelNotFoundError:
            weights.unlink(missing_ok=True)
            return
        if sha256_hex(weights.read_bytes()) == named:
            previous.unlink(missing_ok=True)
        elif sha256_hex(previous.read_bytes()) == named:
            previous.replace(weights)


def _read_weights(directory: Path, card: ModelCard) -> bytes:
    found = []
    for name in (WEIGHTS, PREVIOUS_WEIGHTS):
        try:
            data = (directory / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ModelDamagedError(f"cannot read {directory / name}: {error}") from error
        if sha256_hex(data) == card.weights_sha256:
            return data
        found.append(name)
    if not found:
        raise ModelNotFoundError(f"{directory / WEIGHTS} is missing")
    raise ModelDamagedError(
        f"{directory / WEIGHTS} is truncated or altered: its SHA-256 is not the one that {CARD} names"
    )


def load_model(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> tuple[ModelCard, Network]:
    """Load a model directory, or the model of a run directory, in evaluation mode.

    Raises:
        ModelNotFoundError, ModelDamagedError, ModelFormatError: see `torso.errors`.
        ConfigError: a device that is not there.
    """
    directory = find_model(path)
    place = _device(device)
    card, data = _read(directory)
    try:
        state = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a dtype that torch lacks
        raise ModelDamagedError(f"{directory / WEIGHTS} is not a safetensors file: {error}") from error
    try:
        _check_fit(card, state, directory)
        network = build_network(card.network, torch.Generator())  # a generator: the global one is not drawn from
        network.load_state_dict(state, strict=True)
    except SpecError as error:
        raise ModelDamagedError(f"{directory / CARD} describes a network that cannot be built: {error}") from error
    except RuntimeError as error:
        raise ModelDamagedError(f"{directory / WEIGHTS} does not fit the network in {CARD}: {error}") from error
    return card, network.to(place).eval()


def _read(directory: Path) -> tuple[ModelCard, bytes]:
    """The card and the weights that it names, also while a trainer is saving over them."""
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
    """Compare the tensors with the network's before any of its memory is taken, which the card could make vast."""
    try:
        with torch.device("meta"):
            expected = Network(card.network).state_dict()
    except RuntimeError:  # a registered torso that looks at numbers while it is built: load_state_dict compares
        return
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise ModelDamagedError(f"{directory / WEIGHTS} does not fit {CARD}: missing {missing}, not expected {extra}")
    for name, tensor in expected.items():
        came = state[name]
        if came.shape != tensor.shape or _number_kind(came) != _number_kind(tensor):
            raise ModelDamagedError(
                f"{directory / WEIGHTS} does not fit {CARD}: {name} should be {tensor.dtype} {list(tensor.shape)}, "
                f"it is {came.dtype} {list(came.shape)}"
            )


def _number_kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be cpu or cuda, got {device!r}") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device!r} is not there: {torch.cuda.device_count()} CUDA devices; use device='cpu'")
    return place


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Network:
    """The bare `torch.nn.Module` of a model or run directory."""
    return load_model(path, device)[1]


def find_model(path: str | os.PathLike[str]) -> Path:
    """The model directory that ``path`` means: itself, or a run directory's ``best/``, or else its ``model/``.

    Raises:
        ModelNotFoundError: there is neither.
    """
    directory = Path(path)
    try:
        for candidate in (directory, directory / "best", directory / "model"):
            if (candidate / CARD).is_file():
                return candidate
        exists, is_directory = directory.exists(), directory.is_dir()
    except OSError as error:  # a name too long, a directory that may not be entered
        raise ModelNotFoundError(f"no model at {directory}: {error.strerror or error}") from error
    if not exists:
        raise ModelNotFoundError(f"no model at {directory}: there is no such directory")
    if not is_directory:
        raise ModelNotFoundError(f"no model at {directory}: it is a file; expected a model or run directory")
    raise ModelNotFoundError(
        f"no model in {directory}: expected {CARD} in it (a model directory), or in best/ or model/ (a run directory)"
    )
