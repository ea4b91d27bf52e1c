"""The model directory: the only thing that passes from training to serving.

``weights.safetensors`` holds the tensors, ``model.json`` the rest and the SHA-256 of the weights; it is renamed in
last and is the commit point. While a model is saved over an older one, the older weights stay beside the new ones as
``weights.previous.safetensors``, so that at every moment the two files that belong together are both there.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError

from torso.errors import ModelDamagedError, ModelFormatError, ModelNotFoundError, SpecError
from torso.nets.files import atomic_write_bytes, atomic_write_json, make_directory, sha256_hex
from torso.nets.network import Network, build_network
from torso.nets.spec import NetworkSpec

FORMAT_VERSION = 1
CARD = "model.json"
WEIGHTS = "weights.safetensors"
PREVIOUS_WEIGHTS = "weights.previous.safetensors"

ModelKind = Literal["classifier", "policy"]
Label = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What ``model.json`` says.

    ``labels`` names a classifier's outputs in order. ``action_start`` is the env's number for a policy's output 0.
    ``provenance`` is plain JSON data for people; nothing is computed from it.
    """

    kind: ModelKind
    network: NetworkSpec
    weights_sha256: str
    labels: tuple[Label, ...] | None = None
    action_start: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """The card as plain data."""
        return {
            "format_version": self.format_version,
            "kind": self.kind,
            "weights": {"file": WEIGHTS, "sha256": self.weights_sha256},
            "labels": None if self.labels is None else list(self.labels),
            "action_start": self.action_start,
            "network": self.network.to_json(),
            "provenance": self.provenance,
        }


def save_model(
    directory: str | os.PathLike[str],
    network: Network,
    *,
    kind: ModelKind,
    labels: tuple[Label, ...] | None = None,
    action_start: int = 0,
    provenance: dict[str, Any] | None = None,
    onnx: bool = True,
) -> Path:
    """Save a network as a model directory, atomically, over an older one if there is one.

    ``onnx=True`` also exports ``model.onnx`` (seconds); frequent saves during training leave it out, and a stale one is
    ignored by every reader.

    Raises:
        SpecError: labels that do not fit the head.
        StorageError: the directory could not be written; an older model in it still loads.
    """
    if kind not in ("classifier", "policy"):
        raise SpecError(f"a model's kind is 'classifier' or 'policy', got {kind!r}")
    if labels is not None and len(labels) != getattr(network.spec.head, "num_classes", len(labels)):
        raise SpecError(f"{len(labels)} labels for a head of {network.spec.head.num_classes} classes")
    target = make_directory(directory)
    # Copies, since the parameters of a network in training may be views of one tensor.
    tensors = network.state_dict().items()
    state = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors}
    data = safetensors.torch.save(state)
    card = ModelCard(
        kind=kind,
        network=network.spec,
        weights_sha256=sha256_hex(data),
        labels=labels,
        action_start=action_start,
        provenance=provenance or {},
    )
    _keep_previous(target)
    atomic_write_bytes(target / WEIGHTS, data)
    atomic_write_json(target / CARD, card.to_json())
    with contextlib.suppress(OSError):  # a leftover is harmless, and the next save replaces it
        (target / PREVIOUS_WEIGHTS).unlink(missing_ok=True)
    if onnx:
        from torso.nets.export import export_onnx  # seconds to import, and only this call needs it

        export_onnx(target)
    return target


def _keep_previous(directory: Path) -> None:
    """Put the weights that model.json names beside the place where new ones are about to land."""
    if not (directory / CARD).exists():
        return
    try:
        named = read_card(directory).weights_sha256
        data = (directory / WEIGHTS).read_bytes()
    except (OSError, ModelDamagedError, ModelFormatError, ModelNotFoundError):
        return  # what is there does not load anyway
    if sha256_hex(data) == named:  # otherwise an interrupted save left them, and the previous ones still stand
        atomic_write_bytes(directory / PREVIOUS_WEIGHTS, data)


def read_card(directory: str | os.PathLike[str]) -> ModelCard:
    """Read ``model.json``.

    Raises:
        ModelNotFoundError: no directory, or no model.json in it.
        ModelFormatError: written by a newer torso.
        ModelDamagedError: anything else that is not a model's card.
    """
    path = Path(directory) / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"no model in {directory}: {CARD} is missing; expected a model or run directory"
        ) from error
    except NotADirectoryError as error:
        raise ModelNotFoundError(f"{directory} is a file; expected a model or run directory") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelDamagedError(f"cannot read {path}: {error}") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelDamagedError(f"{path} is not JSON ({error}); the file is truncated or altered") from error
    return _card_from_json(data, path)


def _card_from_json(data: object, path: Path) -> ModelCard:
    if not isinstance(data, dict) or not isinstance(data.get("format_version"), int):
        raise ModelDamagedError(f"{path} names no format_version; it is not a model's card")
    version = data["format_version"]
    if version > FORMAT_VERSION:
        raise ModelFormatError(
            f"{path} has format {version}, this torso reads up to {FORMAT_VERSION}; upgrade torso to load it"
        )
    try:
        labels = data["labels"]
        kind, action_start, provenance = data["kind"], data["action_start"], data["provenance"]
        digest = data["weights"]["sha256"]
        if kind not in ("classifier", "policy") or not isinstance(action_start, int) or not isinstance(digest, str):
            raise ModelDamagedError(f"{path} has a kind, an action_start or a hash that no torso writes")
        if labels is not None and not isinstance(labels, list):
            raise ModelDamagedError(f"{path} has labels {labels!r}; expected a list or null")
        return ModelCard(
            kind=kind,
            network=NetworkSpec.from_json(data["network"]),
            weights_sha256=digest,
            labels=None if labels is None else tuple(labels),
            action_start=action_start,
            provenance=dict(provenance),
            format_version=version,
        )
    except (KeyError, TypeError, ValueError) as error:  # ValueError includes SpecError
        raise ModelDamagedError(f"{path} does not describe a model: {error}") from error


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
    """
    directory = find_model(path)
    for attempt in range(3):  # a trainer may be saving over it: then the card has changed, and is read again
        card = read_card(directory)
        try:
            data = _read_weights(directory, card)
            break
        except (ModelDamagedError, ModelNotFoundError):
            if attempt == 2 or read_card(directory).weights_sha256 == card.weights_sha256:
                raise
    try:
        state = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ModelDamagedError(f"{directory / WEIGHTS} is not a safetensors file: {error}") from error
    try:
        network = build_network(card.network, torch.Generator())  # a generator: the global one is not drawn from
        network.load_state_dict(state, strict=True)
    except SpecError as error:
        raise ModelDamagedError(f"{directory / CARD} describes a network that cannot be built: {error}") from error
    except RuntimeError as error:
        raise ModelDamagedError(f"{directory / WEIGHTS} does not fit the network in {CARD}: {error}") from error
    return card, network.to(device).eval()


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Network:
    """The bare `torch.nn.Module` of a model or run directory."""
    return load_model(path, device)[1]


def find_model(path: str | os.PathLike[str]) -> Path:
    """The model directory that ``path`` means: itself, or a run directory's ``best/``, or else its ``model/``.

    Raises:
        ModelNotFoundError: there is neither.
    """
    directory = Path(path)
    if (directory / CARD).is_file():
        return directory
    for name in ("best", "model"):
        if (directory / name / CARD).is_file():
            return directory / name
    if not directory.exists():
        raise ModelNotFoundError(f"no model at {directory}: there is no such directory")
    if not directory.is_dir():
        raise ModelNotFoundError(f"no model at {directory}: it is a file; expected a model or run directory")
    raise ModelNotFoundError(
        f"no model in {directory}: expected {CARD} in it (a model directory), or in best/ or model/ (a run directory)"
    )
