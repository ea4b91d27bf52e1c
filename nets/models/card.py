"""Model card, ``model.json``: kind, network, labels, calibration and provenance of a model, as plain data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torso.checks import assign, choice, whole
from torso.errors import ModelDamagedError, ModelFormatError, ModelNotFoundError, SpecError
from torso.files import json_bytes, read_regular
from torso.nets.specs.calibration import Calibration
from torso.nets.specs.network import NetworkSpec
from torso.nets.specs.registry import COUNT_FIELDS, ModelKind
from torso.plain import plain, shown
from torso.space_spec import Interface, SpaceSpec

FORMAT_VERSION = 3  # 2 adds regressors and calibration; 3 dueling heads
CARD = "model.json"
MAX_CARD_BYTES = 1 << 25  # a million labels take less
MAX_CARD_VALUES = 1 << 21  # of lists and objects together
MAX_PROVENANCE_BYTES = 1 << 20  # as JSON: it is a part of every description of the model
MAX_NAME_LENGTH = 4096  # of a label or a feature: each answer has some
WEIGHTS = "weights.safetensors"

_SHA256 = re.compile("([0-9a-f]{64})?")  # empty for a model that was never saved

Label = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Contents of ``model.json``.

    Raises:
        SpecError: fields that do not fit together, or that JSON cannot hold.
    """

    kind: ModelKind
    """``classifier``, ``policy`` or ``regressor``."""
    network: NetworkSpec
    """Specification from which the network is built."""
    weights_sha256: str
    """SHA-256 of the weights file in hexadecimal; empty for a model that was never saved."""
    labels: tuple[Label, ...] | None = None
    """Names of the outputs in order: classes, actions, or a regressor's targets."""
    feature_names: tuple[str, ...] | None = None
    """Names of the input's columns, in order, where the model was fitted to a table that names them."""
    action_start: int = 0
    """The env's number for a policy's output 0."""
    observation_space: SpaceSpec | None = None
    """The env's observation space, whose observations were flattened to a policy's inputs; None: they were arrays."""
    calibration: Calibration | None = None
    """Map from a classifier's readout to probabilities; None is softmax."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Plain JSON data for people; nothing is computed from it."""
    format_version: int = FORMAT_VERSION
    """Version of the format of ``model.json``."""

    def __post_init__(self) -> None:
        choice("a model's kind", self.kind, tuple(COUNT_FIELDS))
        if self.kind != self.network.kind:
            raise SpecError(f"a model's kind must be {self.network.kind}, as its network's head is, got {self.kind}")
        if not isinstance(self.weights_sha256, str) or not _SHA256.fullmatch(self.weights_sha256):
            raise SpecError(f"weights_sha256 must be 64 hexadecimal digits, got {shown(self.weights_sha256)}")
        if not isinstance(self.provenance, dict):
            raise SpecError(f"provenance must be a dict, got {shown(self.provenance)}")
        start = whole("action_start", self.action_start, least=-(2**31))
        assign(self, action_start=start, provenance=plain(self.provenance, "provenance"))
        num_bytes = len(json_bytes(self.provenance))
        if num_bytes > MAX_PROVENANCE_BYTES:
            raise SpecError(f"provenance must take at most {MAX_PROVENANCE_BYTES:,} bytes as JSON, got {num_bytes:,}")
        if self.labels is not None:
            assign(self, labels=as_labels(self.labels))
            if len(self.labels) != self.network.num_outputs:
                raise SpecError(
                    f"labels must hold {self.network.num_outputs} names, one an output, got {len(self.labels)}"
                )
        if self.feature_names is not None:
            assign(self, feature_names=_as_feature_names(self.feature_names, self.network.input.size))
        if self.observation_space is not None:
            self._check_observation_space(self.observation_space)
        if self.calibration is not None:
            self._check_calibration(self.calibration)

    def _check_observation_space(self, space: object) -> None:
        if not isinstance(space, SpaceSpec):
            raise SpecError(f"observation_space must be a SpaceSpec, got {shown(space)}")
        if (space.size,) != self.network.input.shape:
            raise SpecError(
                f"observation_space must flatten to inputs of shape {self.network.input.shape}, got {space} of "
                f"{space.size} values"
            )

    def _check_calibration(self, calibration: object) -> None:
        if not isinstance(calibration, Calibration):
            raise SpecError(f"calibration must be a Calibration, got {shown(calibration)}")
        if not self.network.probabilistic:
            owner = "a step unit" if self.kind == "classifier" else f"a {self.kind}"
            raise SpecError(
                f"calibration must be None for {owner}, which gives no probabilities, got {calibration.method}"
            )
        if calibration.num_classes != self.network.num_outputs:
            raise SpecError(
                f"calibration must be of {self.network.num_outputs} classes, one an output, got "
                f"{calibration.num_classes}"
            )

    @property
    def interface(self) -> Interface | None:
        """Interface of a policy, as an env has one: observations and actions; None for other models."""
        if self.kind != "policy":
            return None
        return Interface(
            shape=self.network.input.shape,
            dtype=self.network.input.dtype,
            num_actions=self.network.num_outputs,
            action_start=self.action_start,
            space=self.observation_space,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain data.

        An observation space and names of features are there only where the model has some: older torsos know none.
        """
        space = {} if self.observation_space is None else {"observation_space": self.observation_space.to_json()}
        names = {} if self.feature_names is None else {"feature_names": list(self.feature_names)}
        return {
            "format_version": self.format_version,
            "kind": self.kind,
            "weights": {"file": WEIGHTS, "sha256": self.weights_sha256},
            "labels": None if self.labels is None else list(self.labels),
            **names,
            "action_start": self.action_start,
            **space,
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "network": self.network.to_json(),
            "provenance": self.provenance,
        }


def as_labels(labels: Iterable[Label]) -> tuple[Label, ...]:
    """Convert labels to model.json's: text, numbers, booleans, numpy's as Python's; SpecError for others."""
    if isinstance(labels, (str, bytes, Mapping, Set)) or not isinstance(labels, Iterable):
        raise SpecError(f"labels must be a sequence of names, got {shown(labels)}")
    names = tuple(plain(label, "each label") for label in labels)
    for name in names:
        if not isinstance(name, (str, bool, int, float)):
            raise SpecError(f"each label must be text or a number, got {shown(name)}")
        _require_short("each label", name)
    return names


def _as_feature_names(names: object, size: int) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SpecError(f"feature_names must be a sequence of names, got {shown(names)}")
    found = tuple(names)
    if not all(isinstance(name, str) for name in found) or len(set(found)) < len(found) or len(found) != size:
        raise SpecError(f"feature_names must be {size} different texts, one an input value, got {shown(found)}")
    for name in found:
        _require_short("each of feature_names", name)
    return found


def _require_short(what: str, name: object) -> None:
    if isinstance(name, str) and len(name) > MAX_NAME_LENGTH:
        raise SpecError(f"{what} must have at most {MAX_NAME_LENGTH} characters, got {len(name)}")


def card_bytes(card: ModelCard) -> bytes:
    """Encode a card as ``model.json`` holds it; SpecError for one that is too large for `read_card`."""
    content = json_bytes(card.to_json())
    _require_readable(content, CARD)
    return content


def _require_readable(content: bytes, name: str) -> None:
    """Check the size of a card before it is parsed, which takes some hundred bytes a value."""
    num_values = sum(map(content.count, (b",", b"[", b"{")))
    for unit, got, most in (("bytes", len(content), MAX_CARD_BYTES), ("values", num_values, MAX_CARD_VALUES)):
        if got > most:
            raise SpecError(f"{name} must hold at most {most:,} {unit}, got {got:,}")


def read_card(directory: str | os.PathLike[str]) -> ModelCard:
    """Read a model's card, ``model.json``.

    Raises:
        ModelNotFoundError: no directory, or no model.json in it.
        ModelFormatError: written by a newer torso.
        ModelDamagedError: anything else that is not a model's card.
    """
    path = Path(directory) / CARD
    try:
        content = read_regular(path, MAX_CARD_BYTES)
        text = content.decode("utf-8")
    except FileNotFoundError as error:
        raise ModelNotFoundError(
            f"no model in {directory}: {CARD} is missing; expected a model or run directory"
        ) from error
    except NotADirectoryError as error:
        raise ModelNotFoundError(f"{directory} is a file; expected a model or run directory") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that holds a null character
        raise ModelDamagedError(f"cannot read {path}: {error}") from error
    try:
        _require_readable(content, str(path))
        data = json.loads(text, parse_constant=_refuse_constant)
    except SpecError as error:
        raise ModelDamagedError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ModelDamagedError(f"{path} is not JSON ({error}); the file is truncated or altered") from error
    return _card_from_json(data, path)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _card_from_json(data: object, path: Path) -> ModelCard:
    version = data.get("format_version") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelDamagedError(f"{path} names no format_version; it is not a model's card")
    if version > FORMAT_VERSION:
        raise ModelFormatError(
            f"{path} has format {shown(version)}, this torso reads up to {FORMAT_VERSION}; upgrade torso to load it"
        )
    fields = {"kind", "network", "weights", "labels", "action_start", "provenance"}
    if version > 1:
        fields.add("calibration")
    missing = sorted(fields - set(data))
    if missing:
        raise ModelDamagedError(f"{path} lacks {', '.join(missing)}; the file is truncated or altered")
    calibration, space = data.get("calibration"), data.get("observation_space")
    try:
        return ModelCard(
            kind=data["kind"],
            network=NetworkSpec.from_json(data["network"]),
            weights_sha256=data["weights"]["sha256"],
            labels=data["labels"],
            feature_names=data.get("feature_names"),
            action_start=data["action_start"],
            observation_space=None if space is None else SpaceSpec.from_json(space),
            calibration=None if calibration is None else Calibration.from_json(calibration),
            provenance=data["provenance"],
            format_version=version,
        )
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # ValueError includes SpecError
        raise ModelDamagedError(f"{path} does not describe a model: {error}") from error
