"""Heads by name: which ones fit a kind of model, and their specifications from settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torso.errors import ConfigError
from torso.nets.specs import heads  # noqa: F401 - they register the built-in kinds
from torso.nets.specs.registry import COUNT_FIELDS, HEADS, ModelKind

_DOES = {"classifier": "labels", "policy": "values actions", "regressor": "estimates numbers"}


def head_names(kind: ModelKind) -> tuple[str, ...]:
    """Names of the registered heads of a kind of model, in the order of their registration."""
    count = COUNT_FIELDS[kind]
    return tuple(name for name in HEADS.names if count in head_fields(name) or hasattr(HEADS.spec_class(name), count))


def head_fields(name: str) -> frozenset[str]:
    """Names of the fields of a registered head's specification."""
    return frozenset(field.name for field in fields(HEADS.spec_class(name)))


def has_own_layers(name: str) -> bool:
    """Whether the last fully connected layers are always the registered head's own, as its ``own_layers`` says."""
    return bool(getattr(HEADS.spec_class(name), "own_layers", False))


def require_head(name: object, kind: ModelKind) -> None:
    """Raise ConfigError unless a head of this name is registered and is of the kind."""
    known = head_names(kind)
    if name not in known:
        raise ConfigError(
            f"head must be one that {_DOES[kind]}, got {name!r}; known are {', '.join(known)}; one of your own must be "
            "registered first (register_head, torso --import MODULE)"
        )


def head_spec(name: str, settings: Mapping[str, Any]) -> Any:
    """Build the specification of a registered head from the settings that it has fields for."""
    known = head_fields(name)
    return HEADS.spec_class(name)(**{field: value for field, value in settings.items() if field in known})
