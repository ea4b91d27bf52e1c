"""Save a network as a model directory, atomically, also over an older one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torso.errors import (
    ModelDamagedError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    StorageError,
)
from torso.files import atomic_write_bytes, make_directory, sha256_hex
from torso.nets.models.card import CARD, WEIGHTS, Label, ModelCard, as_labels, card_bytes, read_card
from torso.nets.models.directory import PREVIOUS_WEIGHTS, remove_temporary_files
from torso.nets.models.weights import weights_bytes
from torso.nets.modules.network import Network
from torso.nets.specs.calibration import Calibration
from torso.nets.specs.registry import ModelKind
from torso.space_spec import SpaceSpec


def save_model(
    directory: str | os.PathLike[str],
    network: Network,
    *,
    kind: ModelKind,
    labels: Iterable[Label] | None = None,
    feature_names: Iterable[str] | None = None,
    action_start: int = 0,
    observation_space: SpaceSpec | None = None,
    calibration: Calibration | None = None,
    provenance: dict[str, Any] | None = None,
    onnx: bool = True,
) -> Path:
    """Save a network as a model directory, atomically, also over an older one.

    ``onnx=True`` also exports ``model.onnx`` (seconds); frequent saves during training do without, and every
    reader ignores a stale one.

    Raises:
        SpecError: a kind, labels or calibration that do not fit the head, feature names that do not fit the input, or a
            provenance that JSON cannot hold.
        StorageError: the directory could not be written; an older model in it is unchanged.
        ModelError: ONNX cannot express the network; the model itself is saved.
    """
    weights = weights_bytes(network)
    card = ModelCard(
        kind=kind,
        network=network.spec,
        weights_sha256=sha256_hex(weights),
        labels=None if labels is None else as_labels(labels),
        feature_names=None if feature_names is None else tuple(feature_names),
        action_start=action_start,
        observation_space=observation_space,
        calibration=calibration,
        provenance={} if provenance is None else provenance,
    )
    data = card_bytes(card)  # everything is validated by now; only file errors can follow
    target = make_directory(directory)
    remove_temporary_files(target)
    try:
        _back_up_weights(target)
        atomic_write_bytes(target / WEIGHTS, weights)
        atomic_write_bytes(target / CARD, data)
    except StorageError:
        _roll_back(target)
        raise
    with contextlib.suppress(OSError):  # a leftover is harmless, and the next save replaces it
        (target / PREVIOUS_WEIGHTS).unlink(missing_ok=True)
    if onnx:
        from torso.nets.models.onnx_export import export_onnx

        export_onnx(target, network)
    return target


def _back_up_weights(directory: Path) -> None:
    """Copy the weights that model.json names to ``PREVIOUS_WEIGHTS``, before new ones replace them."""
    try:
        named = read_card(directory).weights_sha256
        data = (directory / WEIGHTS).read_bytes()
    except (OSError, ModelError):
        return  # there is no model, or one that does not load anyway
    if sha256_hex(data) == named:  # otherwise an interrupted save left them, and the backup still exists
        atomic_write_bytes(directory / PREVIOUS_WEIGHTS, data)


def _roll_back(directory: Path) -> None:
    """Restore, after a failed write, the weights that model.json names, and remove the other weights file."""
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
